// What a CUDA kernel file (csrc/ops/cuda/<op>_kernel.cu) includes: launch(), shared memory, grids.
//
// The same file is compiled twice. By nvcc, for a GPU. And, for tests on machines without one, by the C++ compiler with
// MFVIS_EMULATED, for csrc/emulator: what the kernels use of CUDA (threads, barriers, shuffles, shared memory, atomics)
// runs there on the CPU, so the whole ladder of tests climbs the very code that the GPU will run. Hence three rules:
// shared memory comes from shared_memory(), kernels start by launch(), and what is not in the emulator is added there.
#pragma once

#include <cstdint>

#include "kernel.h"

#ifdef MFVIS_EMULATED
#include "../emulator/emulator.h"
#else
#include <cuda_runtime.h>
#endif

namespace mfvis {

#ifndef MFVIS_EMULATED

// The stream of torch on the current device.
cudaStream_t current_stream();
void check_launch(const char* op, cudaError_t error);

namespace {

// kernel<<<grid, block, shared_bytes>>>(args...) on torch's stream; an empty grid is no launch. `op` is for the error.
template <typename... Parameters, typename... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared_bytes,
            const Arguments&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes >= 48 * 1024) {  // Less than this every GPU gives unasked.
    check_launch(
        op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  }
  kernel<<<grid, block, static_cast<size_t>(shared_bytes), current_stream()>>>(args...);
  check_launch(op, cudaGetLastError());
}

// The shared memory of a block, as many bytes as launch() was given.
template <typename T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

}  // namespace
#endif

namespace {

constexpr unsigned whole_warp = 0xffffffffu;

__host__ __device__ __forceinline__ int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks for `items` of work at `per_block` each, at most as many as a grid holds: a kernel goes on with item
// + gridDim.x · per_block while there is one, so that no count is too large. The emulator has a small grid, or else no
// test would ever see a block go on.
inline dim3 grid_for(int64_t items, int64_t per_block) {
#ifdef MFVIS_EMULATED
  constexpr int64_t most = 5;
#else
  constexpr int64_t most = 0x7fffffff;
#endif
  const int64_t blocks = ceil_div(items, per_block);
  return dim3(static_cast<unsigned>(blocks < most ? blocks : most));
}

// 16 bytes, which a lane reads at once.
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
