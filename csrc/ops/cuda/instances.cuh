// The losses share what a video's frames say among all its instances and decoder layers: a block computes it once and
// goes through the instances 32 at a time, a word of bits.
#pragma once

#include "../../common/cuda.h"

namespace mfvis {
namespace {

constexpr int word = 32;

// Bit i of the result: instance 32·which_word + i exists and is of this video. For whole warps. An index that names no
// video, which only the CPU looks for, means the nearest: every instance is somebody's, so that all results are
// written.
__device__ __forceinline__ uint32_t instances_of(const int64_t* video_index, int64_t instances, int64_t videos,
                                                 int64_t video, int64_t which_word) {
  const int64_t n = which_word * word + threadIdx.x % 32, named = n < instances ? video_index[n] : 0;
  const int64_t nearest = named < 0 ? 0 : named >= videos ? videos - 1 : named;
  return __ballot_sync(whole_warp, n < instances && nearest == video);
}

// i / side for i below 2^16 and odd sides below 256, given 1.0f / side: with the half no product is nearer to a whole
// number than 0.5 / 255, a hundred times what the rounding adds.
__device__ __forceinline__ int32_t row_of(int32_t i, float per_side) {
  return static_cast<int32_t>((static_cast<float>(i) + 0.5f) * per_side);
}

// Adds up partial [count, tiles, 2] over its tiles, in a fixed order: one warp for each of the two sums [count].
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
