// Included by every CUDA kernel file (csrc/ops/cuda/<op>_kernel.cu): launch(), shared memory, grids.
//
// The same file is compiled twice: by nvcc for a GPU, and by the C++ compiler with MFVIS_EMULATED for csrc/emulator,
// which runs threads, barriers, shuffles, shared memory and atomics on the CPU. So on a machine without a GPU the
// operator tests run the code that the GPU will run. This leads to three rules: shared memory comes from
// shared_memory(), kernels are started with launch(), and a CUDA feature that the emulator lacks is added there.
#pragma once

#include <cstdint>

#include "arithmetic.h"
#include "kernel.h"

#ifdef MFVIS_EMULATED
#include "../emulator/emulator.h"
#else
#include <cuda_runtime.h>
#endif

namespace mfvis {

#ifndef MFVIS_EMULATED

// PyTorch's stream on the current device.
cudaStream_t current_stream();
void check_launch(const char* op, cudaError_t error);

namespace {

// kernel<<<grid, block, shared_bytes>>>(args...) on PyTorch's stream. An empty grid launches nothing. `op` is for the
// error message.
template <typename... Parameters, typename... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared_bytes,
            const Arguments&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes >= 48 * 1024) {  // Smaller sizes need no opt-in.
    check_launch(
        op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  }
  kernel<<<grid, block, static_cast<size_t>(shared_bytes), current_stream()>>>(args...);
  check_launch(op, cudaGetLastError());
}

// The block's shared memory, of the size that launch() was given.
template <typename T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

}  // namespace
#endif

namespace {

constexpr unsigned whole_warp = 0xffffffffu;

// Blocks for `items` of work with `per_block` each, at most as many as a grid holds. A kernel loops over item +
// gridDim.x · per_block, so every count is allowed. The emulator's grid is small, so that the tests cover this loop.
inline dim3 grid_for(int64_t items, int64_t per_block) {
#ifdef MFVIS_EMULATED
  constexpr int64_t max_blocks = 5;
#else
  constexpr int64_t max_blocks = 0x7fffffff;
#endif
  return dim3(static_cast<unsigned>(min(ceil_div(items, per_block), max_blocks)));
}

// 16 bytes, one load of a lane.
template <typename T>
struct alignas(16) Chunk {
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};

template <typename T>
__device__ __forceinline__ T sum_over_warp(T value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(whole_warp, value, step);
  return value;
}

}  // namespace
}  // namespace mfvis
