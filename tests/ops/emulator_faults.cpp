// Kernels with planted faults, each next to a correct one: `emulator_faults NAME` runs a kernel on the emulator
// (csrc/emulator) and prints its result, or fails with the emulator's message. Compiled and run by test_emulator.py.
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "common/cuda.h"

namespace mfvis {
namespace {

constexpr int blocks = 4, threads = 64;

// --- Within a block.

template <bool synced>
__global__ void reverse_in_shared(int* out) {
  int* const shared = shared_memory<int>();
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (synced) __syncthreads();
  out[blockIdx.x * threads + threadIdx.x] = shared[threads - 1 - threadIdx.x];
}

template <bool synced>
__global__ void reverse_in_global(int* out) {
  int* const own = out + blockIdx.x * threads;
  own[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (synced) __syncthreads();
  if (threadIdx.x == 0) own[0] = own[threads - 1];
}

__global__ void barrier_of_some(int*) {
  if (threadIdx.x < 40) __syncthreads();
  __syncwarp();
  if (threadIdx.x < 20) __syncthreads();
}

template <int extra>
__global__ void write_shared(int* out) {
  shared_memory<int>()[threadIdx.x + extra] = 1;
  out[blockIdx.x * threads + threadIdx.x] = 1;
}

template <int offset>
__global__ void read_vector(int* out) {
  const int4 four = *reinterpret_cast<const int4*>(out + blockIdx.x * threads + offset + 4 * (threadIdx.x % 8));
  __syncthreads();
  out[blockIdx.x * threads + threadIdx.x] = four.x;
}

// --- Within a warp.

template <bool same>
__global__ void shuffles(int* out) {
  const int lane = threadIdx.x % 32;
  int value = lane;
  if (same || lane < 16) {
    value = __shfl_xor_sync(whole_warp, value, 1);
  } else {
    value = __shfl_xor_sync(whole_warp, value, 2);
  }
  out[blockIdx.x * threads + threadIdx.x] = value;
}

// The same helper, called at two places.
__global__ void sums_at_two_places(int* out) {
  const int lane = threadIdx.x % 32;
  out[blockIdx.x * threads + threadIdx.x] = lane < 16 ? sum_over_warp(lane) : sum_over_warp(-lane) + 1;
}

template <bool own_lane>
__global__ void ballot_of_half(int* out) {
  const int lane = threadIdx.x % 32;
  if (lane >= 16) return;
  const unsigned mask = own_lane ? 0xffffu : 0xffffu << 8;
  out[blockIdx.x * threads + threadIdx.x] = static_cast<int>(__ballot_sync(mask, lane % 2));
}

__global__ void masks_that_differ(int* out) {
  const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffffffu : 0xfffffffeu;
  out[threadIdx.x] = __any_sync(mask, 1);
}

// --- Between blocks.

__global__ void read_of_the_block_before(int* out) {
  if (threadIdx.x != 0) return;
  out[blockIdx.x] = blockIdx.x == 0 ? 1 : out[blockIdx.x - 1] + 1;
}

__global__ void writes_to_one_place(int* out) {
  if (threadIdx.x == 0) out[0] = static_cast<int>(blockIdx.x);
}

__global__ void write_next_to_atomics(int* out) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    out[0] = 0;
  } else {
    atomicAdd(out, 1);
  }
}

__global__ void atomics(int* out) { atomicAdd(out + threadIdx.x % 3, 1); }

// The block that finishes last adds up what all have written.
template <bool releases, bool acquires>
__global__ void last_block(int* out) {
  int* const is_last = shared_memory<int>();
  int *const count = out, *const sums = out + 1, *const total = out + 1 + blocks;
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
    if (releases) __threadfence();
    *is_last = atomicAdd(count, 1) + 1 == static_cast<int>(gridDim.x);
  }
  __syncthreads();
  if (*is_last == 0) return;
  if (acquires) __threadfence();
  if (threadIdx.x == 0) {
    *total = 0;
    for (int b = 0; b < blocks; ++b) *total += sums[b];
  }
}

// --- Arithmetic, and the bounds of global memory.

// 0 unless the product is not rounded before the subtraction.
__global__ void rounding_of_a_product(float* out) {
  const float a = 1 + static_cast<float>(threadIdx.x + 1) * 0x1p-12f;
  const float square = *static_cast<volatile const float*>(&a) * a;
  out[threadIdx.x] = square;
  __syncthreads();
  out[threadIdx.x] = a * a - *static_cast<volatile float*>(out + threadIdx.x);
}

template <int extra>
__global__ void read_neighbor(const int* in, int* out, int size) {
  const int i = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  if (i < size) out[i] = in[i + extra < size + extra ? i + extra : 0];
}

template <typename Kernel>
int sum_after(Kernel kernel, int shared_bytes = threads * sizeof(int)) {
  std::vector<int> out(blocks * threads);
  launch("planted", kernel, dim3(blocks), dim3(threads), shared_bytes, out.data());
  int sum = 0;
  for (const int value : out) sum += value;
  return sum;
}

int contracted() {
  std::vector<float> out(threads);
  launch("planted", rounding_of_a_product, dim3(1), dim3(threads), 0, out.data());
  int different = 0;
  for (const float value : out) different += value != 0;
  return different;
}

template <int extra>
int neighbors() {
  const int size = blocks * threads;
  const std::vector<int> in(size, 1);
  std::vector<int> out(size);
  launch("planted", read_neighbor<extra>, dim3(blocks), dim3(threads), 0, in.data(), out.data(), size);
  return out[0];
}

const std::map<std::string, int (*)()> cases{
    {"barrier", [] { return sum_after(reverse_in_shared<true>); }},
    {"no_barrier", [] { return sum_after(reverse_in_shared<false>); }},
    {"barrier_in_global", [] { return sum_after(reverse_in_global<true>); }},
    {"no_barrier_in_global", [] { return sum_after(reverse_in_global<false>); }},
    {"barrier_of_some", [] { return sum_after(barrier_of_some); }},
    {"shared_memory", [] { return sum_after(write_shared<0>); }},
    {"behind_shared_memory", [] { return sum_after(write_shared<4>); }},
    {"aligned", [] { return sum_after(read_vector<0>); }},
    {"unaligned", [] { return sum_after(read_vector<1>); }},
    {"one_shuffle", [] { return sum_after(shuffles<true>); }},
    {"two_shuffles", [] { return sum_after(shuffles<false>); }},
    {"sums_at_two_places", [] { return sum_after(sums_at_two_places); }},
    {"half_a_warp", [] { return sum_after(ballot_of_half<true>); }},
    {"mask_without_own_lane", [] { return sum_after(ballot_of_half<false>); }},
    {"masks_that_differ", [] { return sum_after(masks_that_differ); }},
    {"read_of_the_block_before", [] { return sum_after(read_of_the_block_before); }},
    {"writes_to_one_place", [] { return sum_after(writes_to_one_place); }},
    {"write_next_to_atomics", [] { return sum_after(write_next_to_atomics); }},
    {"atomics", [] { return sum_after(atomics); }},
    {"last_block", [] { return sum_after(last_block<true, true>); }},
    {"last_block_without_release", [] { return sum_after(last_block<false, true>); }},
    {"last_block_without_acquire", [] { return sum_after(last_block<true, false>); }},
    {"contracted", contracted},
    {"within_bounds", neighbors<0>},
    {"off_by_one", neighbors<1>},
};

}  // namespace
}  // namespace mfvis

int main(int, char** argv) {
  try {
    std::printf("%d\n", mfvis::cases.at(argv[1])());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
