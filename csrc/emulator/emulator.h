// CUDA's execution model on one CPU thread, for tests on machines without a GPU. The blocks of a grid run one after
// another in random order. The threads of a block are fibers, which switch at barriers and shuffles:
//
//   block   t0 ──┐   t1 ──┐   t2 ──┐        between two barriers the order of the threads is random, so that code that
//     barrier    ▼        ▼        ▼        lacks a barrier meets an order in which it is wrong
//           t2 ──┐   t0 ──┐   t1 ──┐        a barrier that some threads never reach is an error, not a hang
//     barrier    ▼        ▼        ▼
//
// Errors that it reports:
//   * a race: two threads use the same memory, at least one of them writes, and nothing orders the accesses. Within a
//     block barriers do; between blocks __threadfence() and an atomic operation on both sides.
//   * lanes of a warp that meet in different collectives (__shfl_*_sync, __ballot_sync, __syncwarp) or with different
//     masks
//   * a write behind the end of the shared memory, which is initialized to NaN
//   * an unaligned vector, which faults on a GPU
//   * with MFVIS_SANITIZE=address instead of the races: accesses outside of the global memory
//
// Kernels are compiled with fused multiply-add, as nvcc does (flags.txt). Grids are small, so that blocks loop. It
// cannot show speed, weaker orderings of the memory model, or the arithmetic of the hardware's special functions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __constant__ const

namespace mfvis::emulator {

// Indices of the running thread, and sizes of its launch.
extern uint3 thread, block;
extern dim3 block_size, grid_size;

void run(const char* op, dim3 grid, dim3 block, int64_t shared_bytes, void (*body)(const void*), const void* context);
void* shared_bytes();
void block_barrier();
void fence();
unsigned lane();

// The collectives of a warp. The return address identifies their call in the kernel, hence everything between is
// inlined. show_to_warp: every lane of the mask shows 8 bytes to all others; returns those of the 32 lanes, valid until
// the next call.
void warp_barrier(unsigned mask);
const uint64_t* show_to_warp(unsigned mask, uint64_t value);

template <typename T>
__forceinline__ T from_lane(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  const uint64_t theirs = show_to_warp(mask, bits)[source];
  memcpy(&value, &theirs, sizeof(T));
  return value;
}

// During its lifetime the running thread's accesses belong to an atomic operation.
void begin_atomic(const void* address);
void end_atomic();
struct Atomic {
  explicit Atomic(const void* address) { begin_atomic(address); }
  ~Atomic() { end_atomic(); }
};

}  // namespace mfvis::emulator

#define threadIdx (::mfvis::emulator::thread)
#define blockIdx (::mfvis::emulator::block)
#define blockDim (::mfvis::emulator::block_size)
#define gridDim (::mfvis::emulator::grid_size)

static __forceinline__ void __syncthreads() { ::mfvis::emulator::block_barrier(); }
static __forceinline__ void __syncwarp(unsigned mask = 0xffffffffu) { ::mfvis::emulator::warp_barrier(mask); }
static __forceinline__ void __threadfence() { ::mfvis::emulator::fence(); }

// The value of the given lane, or the own one if it lies outside of the segment of `width` lanes.
template <typename T>
static __forceinline__ T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = ::mfvis::emulator::lane(), first = lane & ~static_cast<unsigned>(width - 1);
  return ::mfvis::emulator::from_lane(mask, value, first + (static_cast<unsigned>(source) & (width - 1)));
}
template <typename T>
static __forceinline__ T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const unsigned lane = ::mfvis::emulator::lane(), source = lane ^ static_cast<unsigned>(bits);
  return ::mfvis::emulator::from_lane(mask, value, source / width == lane / width ? source : lane);
}
template <typename T>
static __forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = ::mfvis::emulator::lane(), source = lane + delta;
  return ::mfvis::emulator::from_lane(mask, value, source / width == lane / width ? source : lane);
}
template <typename T>
static __forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = ::mfvis::emulator::lane();
  return ::mfvis::emulator::from_lane(mask, value, lane % width >= delta ? lane - delta : lane);
}
static __forceinline__ unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* const shown = ::mfvis::emulator::show_to_warp(mask, predicate != 0);
  unsigned ballot = 0;
  for (unsigned i = 0; i < 32; ++i) {
    if (mask >> i & 1u) ballot |= static_cast<unsigned>(shown[i] & 1u) << i;
  }
  return ballot;
}
static __forceinline__ int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static __forceinline__ int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

// Fibers switch only at barriers and collectives, so plain arithmetic is atomic.
template <typename T>
static __forceinline__ T atomicAdd(T* at, std::common_type_t<T> value) {
  const ::mfvis::emulator::Atomic atomic(at);
  const T before = *at;
  *at = before + value;
  return before;
}
template <typename T>
static __forceinline__ T atomicMin(T* at, std::common_type_t<T> value) {
  const ::mfvis::emulator::Atomic atomic(at);
  const T before = *at;
  *at = value < before ? value : before;
  return before;
}
template <typename T>
static __forceinline__ T atomicMax(T* at, std::common_type_t<T> value) {
  const ::mfvis::emulator::Atomic atomic(at);
  const T before = *at;
  *at = value > before ? value : before;
  return before;
}
template <typename T>
static __forceinline__ T atomicOr(T* at, std::common_type_t<T> value) {
  const ::mfvis::emulator::Atomic atomic(at);
  const T before = *at;
  *at = before | value;
  return before;
}
template <typename T>
static __forceinline__ T atomicExch(T* at, std::common_type_t<T> value) {
  const ::mfvis::emulator::Atomic atomic(at);
  const T before = *at;
  *at = value;
  return before;
}
template <typename T>
static __forceinline__ T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> value) {
  const ::mfvis::emulator::Atomic atomic(at);
  const T before = *at;
  if (before == expected) *at = value;
  return before;
}
template <typename T>
static __forceinline__ T __ldg(const T* at) {
  return *at;
}

namespace mfvis {
namespace {

// The counterpart of launch() for a GPU in cuda.h.
template <typename... Parameters, typename... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared_bytes,
            const Arguments&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const auto call = [&] { kernel(args...); };
  emulator::run(
      op, grid, block, shared_bytes, [](const void* context) { (*static_cast<const decltype(call)*>(context))(); },
      &call);
}

template <typename T>
T* shared_memory() {
  return static_cast<T*>(emulator::shared_bytes());
}

}  // namespace
}  // namespace mfvis
