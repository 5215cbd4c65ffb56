// The Python module mfvis_ext._C. Loading it registers torch.ops.mfvis.*; it also reports how it was built.
#include <pybind11/pybind11.h>

#include "common/kernel.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  mfvis::cpu_capability();  // A wrong MFVIS_CPU_CAPABILITY fails at import.
  m.def("build_info", [] {
    py::list capabilities;
    for (int i = 0; i < mfvis::cpu_capability_count; ++i) {
      const mfvis::CpuCapability capability = static_cast<mfvis::CpuCapability>(i);
      if (mfvis::capability_was_built(capability)) capabilities.append(mfvis::name_of(capability));
    }
    py::dict info;
    info["version"] = MFVIS_VERSION;
    info["compiler"] = MFVIS_COMPILER;
    info["torch_target"] = MFVIS_TORCH_TARGET;
    info["torch_built_with"] = MFVIS_TORCH_BUILT_WITH;
    info["cuda"] = MFVIS_CUDA_VERSION[0] ? py::object(py::str(MFVIS_CUDA_VERSION)) : py::object(py::none());
    info["cuda_archs"] = MFVIS_CUDA_ARCHS;
    info["cpu_capabilities"] = capabilities;
    info["cpu_capability"] = mfvis::name_of(mfvis::cpu_capability());
    return info;
  });
}
