// The current device and PyTorch's stream on it. No-ops in a build without CUDA.
#include "kernel.h"

#ifdef USE_CUDA
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace mfvis {

void check_launch(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // Clears the error; otherwise the next launch would report it again.
  std::string remedy;
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    // The wheel of CUDA 12.6 runs with every driver for CUDA 12.
    remedy = "; this build needs a driver for CUDA " MFVIS_CUDA_VERSION ", this one is for CUDA " +
             std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10) +
             ": update the driver, or install a build for it: `pip install --force-reinstall --no-deps mfvis-ext==" +
             std::string(MFVIS_VERSION).substr(0, std::string(MFVIS_VERSION).find('+')) + "+cu126`";
  }
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    remedy = "; this build has kernels for " MFVIS_CUDA_ARCHS
             " only: rebuild it here with `MFVIS_CUDA=1 pip install --force-reinstall --no-deps --no-cache-dir "
             "--no-binary mfvis-ext mfvis-ext`";
  }
  throw std::runtime_error(std::string("mfvis::") + op + ": " + cudaGetErrorString(error) + remedy);
}

// The function is looked up when it is needed instead of linking libtorch_cuda: a CUDA build also loads with a CPU-only
// torch.
cudaStream_t current_stream() {
  using CurrentStream = int32_t(int32_t, void**);
  static CurrentStream* const stream_of = [] {
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<CurrentStream*>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  int device = 0;
  void* stream = nullptr;
  check_launch("current_stream", cudaGetDevice(&device));
  if (stream_of == nullptr || stream_of(device, &stream) != 0) {
    throw std::runtime_error("mfvis: torch has no CUDA stream; expected a CUDA build of torch >= 2.10");
  }
  return static_cast<cudaStream_t>(stream);
}

DeviceGuard::DeviceGuard(int device) : before_(-1) {
  if (device < 0) return;
  int current = 0;
  check_launch("device", cudaGetDevice(&current));
  if (current == device) return;
  check_launch("device", cudaSetDevice(device));
  before_ = current;
}

DeviceGuard::~DeviceGuard() {
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace mfvis
#else
namespace mfvis {

DeviceGuard::DeviceGuard(int) : before_(-1) {}
DeviceGuard::~DeviceGuard() = default;

}  // namespace mfvis
#endif
