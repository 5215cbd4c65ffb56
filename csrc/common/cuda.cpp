// The current device and torch's stream on it. Empty hands in a build without CUDA.
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
  cudaGetLastError();  // Forgotten, or else the next launch would report it again.
  std::string remedy;
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    remedy = "; this build has kernels for " MFVIS_CUDA_ARCHS
             " alone: rebuild it here with `MFVIS_CUDA=1 pip install --force-reinstall --no-deps --no-cache-dir "
             "--no-binary mfvis-ext mfvis-ext`";
  }
  throw std::runtime_error(std::string("mfvis::") + op + ": " + cudaGetErrorString(error) + remedy);
}

// libtorch_cuda is asked for its stream when it is needed, not linked: a CUDA build also loads beside a torch without.
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
    throw std::runtime_error("mfvis: torch does not tell its CUDA stream; expected a CUDA build of torch >= 2.10");
  }
  return static_cast<cudaStream_t>(stream);
}

OnDevice::OnDevice(int device) : before_(-1) {
  if (device < 0) return;
  int current = 0;
  check_launch("device", cudaGetDevice(&current));
  if (current == device) return;
  check_launch("device", cudaSetDevice(device));
  before_ = current;
}

OnDevice::~OnDevice() {
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace mfvis
#else
namespace mfvis {

OnDevice::OnDevice(int) : before_(-1) {}
OnDevice::~OnDevice() = default;

}  // namespace mfvis
#endif
