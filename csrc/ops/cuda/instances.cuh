// The losses share a video's frames among all its instances and decoder layers: a block computes what depends on the
// frames once and processes the instances 32 at a time, as the bits of a mask.
#pragma once

#include "../../common/cuda.h"

namespace mfvis {
namespace {

constexpr int instances_per_mask = 32;

// Masks for all instances.
MFVIS_HOST_DEVICE int32_t masks_of(int64_t instances) {
  return static_cast<int32_t>(ceil_div(instances, instances_per_mask));
}

// Bit i of the result: instance 32·mask_index + i exists and belongs to this video. For whole warps. An index outside
// of the batch, which only the CPU refuses, is clamped to the nearest video: every instance belongs to a video, so that
// all results are written.
__device__ __forceinline__ uint32_t instances_of(const int64_t* video_index, int64_t instances, int64_t videos,
                                                 int64_t video, int64_t mask_index) {
  const int64_t n = mask_index * instances_per_mask + threadIdx.x % 32, named = n < instances ? video_index[n] : 0;
  const int64_t nearest = max<int64_t>(0, min(named, videos - 1));
  return __ballot_sync(whole_warp, n < instances && nearest == video);
}

// The bits that any lane of the warp has.
__device__ __forceinline__ uint32_t any_over_warp(uint32_t bits) {
  for (int step = 16; step > 0; step /= 2) bits |= __shfl_xor_sync(whole_warp, bits, step);
  return bits;
}

// Lanes 0 and 16 return the sums of `a` and of `b` over the warp.
template <typename C>
__device__ __forceinline__ C sum_two_over_warp(C a, C b) {
  const bool upper = (threadIdx.x & 16u) != 0;
  C sum = (upper ? b : a) + __shfl_xor_sync(whole_warp, upper ? a : b, 16);
  for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(whole_warp, sum, step);
  return sum;
}

// Sums partial [count, tiles, 2] over the tiles in a fixed order: one warp for each of the two sums [count].
template <typename C>
__global__ void __launch_bounds__(256)
    add_partial_sums(const C* partial, int64_t count, int64_t tiles, C* first_sum, C* second_sum) {
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32; item < count;
       item += static_cast<int64_t>(gridDim.x) * 8) {
    const C* const parts = partial + item * tiles * 2;
    double first = 0, second = 0;
    for (int64_t tile = threadIdx.x % 32; tile < tiles; tile += 32) {
      first += static_cast<double>(parts[2 * tile]);
      second += static_cast<double>(parts[2 * tile + 1]);
    }
    first = sum_over_warp(first);
    second = sum_over_warp(second);
    if (threadIdx.x % 32 == 0) {
      first_sum[item] = static_cast<C>(first);
      second_sum[item] = static_cast<C>(second);
    }
  }
}

}  // namespace
}  // namespace mfvis
