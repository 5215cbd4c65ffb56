// CUDA's execution model on one CPU thread, for tests where there is no GPU. The blocks of a grid run one after
// another; the threads of a block are fibers, which change over at barriers and shuffles:
//
//   block   t0 ──┐   t1 ──┐   t2 ──┐        between two barriers the order of the threads is drawn anew, so that code
//     barrier    ▼        ▼        ▼        that lacks a barrier meets an order in which it is wrong
//           t2 ──┐   t0 ──┐   t1 ──┐        a barrier that some threads never reach ends in an error, not in a hang
//     barrier    ▼        ▼        ▼
//
// Shared memory starts as NaNs, and a write behind its end is found when the block ends. So is a race: two threads that
// use a byte of shared memory, one of them writing, with no barrier between, whatever their order was. And a vector
// that is not aligned. Grids are small, so that blocks go on to further items. What it cannot show: speed, races in
// global memory, the memory model, and faults of the hardware's own arithmetic.
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

namespace mfvis::emulator {

// Of the thread that runs now, and of its launch.
extern uint3 thread, block;
extern dim3 block_size, grid_size;

void run(const char* op, dim3 grid, dim3 block, int64_t shared_bytes, void (*body)(const void*), const void* context);
void* shared_bytes();
void block_barrier();
void warp_barrier(unsigned mask);
// Every lane of the mask shows 8 bytes to all others; returns those of the 32 lanes, valid until the next call.
const uint64_t* show_to_warp(unsigned mask, uint64_t value);
unsigned lane();

template <typename T>
T from_lane(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  const uint64_t theirs = show_to_warp(mask, bits)[source];
  memcpy(&value, &theirs, sizeof(T));
  return value;
}

}  // namespace mfvis::emulator

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __constant__ const

#define threadIdx (::mfvis::emulator::thread)
#define blockIdx (::mfvis::emulator::block)
#define blockDim (::mfvis::emulator::block_size)
#define gridDim (::mfvis::emulator::grid_size)

static inline void __syncthreads() { ::mfvis::emulator::block_barrier(); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { ::mfvis::emulator::warp_barrier(mask); }
static inline void __threadfence() {}

// The lane asked for, or the own one where that lies outside of the segment of `width` lanes.
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = ::mfvis::emulator::lane(), first = lane & ~static_cast<unsigned>(width - 1);
  return ::mfvis::emulator::from_lane(mask, value, first + (static_cast<unsigned>(source) & (width - 1)));
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const unsigned lane = ::mfvis::emulator::lane(), source = lane ^ static_cast<unsigned>(bits);
  return ::mfvis::emulator::from_lane(mask, value, source / width == lane / width ? source : lane);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = ::mfvis::emulator::lane(), source = lane + delta;
  return ::mfvis::emulator::from_lane(mask, value, source / width == lane / width ? source : lane);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = ::mfvis::emulator::lane();
  return ::mfvis::emulator::from_lane(mask, value, lane % width >= delta ? lane - delta : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* const shown = ::mfvis::emulator::show_to_warp(mask, predicate != 0);
  unsigned ballot = 0;
  for (unsigned i = 0; i < 32; ++i) {
    if (mask >> i & 1u) ballot |= static_cast<unsigned>(shown[i] & 1u) << i;
  }
  return ballot;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

// The fibers of one block never run at once, nor do blocks: plain arithmetic is atomic here.
template <typename T>
static inline T atomicAdd(T* at, std::common_type_t<T> value) {
  const T before = *at;
  *at = before + value;
  return before;
}
template <typename T>
static inline T atomicMin(T* at, std::common_type_t<T> value) {
  const T before = *at;
  *at = value < before ? value : before;
  return before;
}
template <typename T>
static inline T atomicMax(T* at, std::common_type_t<T> value) {
  const T before = *at;
  *at = value > before ? value : before;
  return before;
}
template <typename T>
static inline T __ldg(const T* at) {
  return *at;
}

namespace mfvis {
namespace {

// As cuda.h has it for a GPU.
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
