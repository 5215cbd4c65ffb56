// The Python module mfvis_ext._C. Loading it registers torch.ops.mfvis.*; it says how it was built, nothing else.
#include <pybind11/pybind11.h>

#include "common/kernel.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  mfvis::cpu_level();  // A wrong MFVIS_CPU_LEVEL is an error of the import, not of the first operator called.
  m.def("build_info", [] {
    py::list levels;
    for (int i = 0; i < mfvis::cpu_level_count; ++i) {
      const mfvis::CpuLevel level = static_cast<mfvis::CpuLevel>(i);
      if (mfvis::level_was_built(level)) levels.append(mfvis::name_of(level));
    }
    py::dict info;
    info["version"] = MFVIS_VERSION;
    info["compiler"] = MFVIS_COMPILER;
    info["torch_target"] = MFVIS_TORCH_TARGET;
    info["torch_built_with"] = MFVIS_TORCH_BUILT_WITH;
    info["cuda"] = MFVIS_CUDA_VERSION[0] ? py::object(py::str(MFVIS_CUDA_VERSION)) : py::object(py::none());
    info["cuda_archs"] = MFVIS_CUDA_ARCHS;
    info["cpu_levels"] = levels;
    info["cpu_level"] = mfvis::name_of(mfvis::cpu_level());
    return info;
  });
}
