// A block goes through one frame of one instance, a warp at a time through a row, and keeps the outermost pixels above
// the threshold in registers; they meet in shared memory once, at the end:
//
//   warps   w0  w1 ... w7          each lane: top, bottom, left, right over its pixels
//            └───┴─────┘  shuffles, then
//   bounds  [8 warps][4 ints]      in shared memory; thread 0 writes the box
//
// Every logit is read once, in order: the floor is the memory's bandwidth.
#include "../../common/cuda.h"
#include "../mask_to_boxes.h"

namespace mfvis {
namespace {

constexpr int warps = 8;

__device__ int32_t smallest_of_warp(int32_t value) {
  for (int step = 16; step > 0; step /= 2) {
    const int32_t other = __shfl_xor_sync(whole_warp, value, step);
    value = other < value ? other : value;
  }
  return value;
}

template <typename T>
__global__ void __launch_bounds__(32 * warps) bounds_of_frames(MaskToBoxes args) {
  int32_t (*const bounds)[4] = shared_memory<int32_t[4]>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t height = static_cast<int32_t>(args.height), width = static_cast<int32_t>(args.width);
  const Compute<T> threshold = static_cast<Compute<T>>(args.threshold);
  for (int64_t item = blockIdx.x; item < args.count; item += gridDim.x) {
    const T* const frame = static_cast<const T*>(args.logits) + item * args.height * args.width;
    // Four minima: of y, of x, and of their negatives.
    int32_t bound[4] = {INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX};
    for (int32_t y = warp; y < height; y += warps) {
      const T* const row = frame + static_cast<int64_t>(y) * width;
      for (int32_t x = lane; x < width; x += 32) {
        if (!(load(row[x]) > threshold)) continue;
        const int32_t here[4] = {x, y, -x - 1, -y - 1};
        for (int i = 0; i < 4; ++i) bound[i] = here[i] < bound[i] ? here[i] : bound[i];
      }
    }
    for (int i = 0; i < 4; ++i) {
      bound[i] = smallest_of_warp(bound[i]);
      if (lane == 0) bounds[warp][i] = bound[i];
    }
    __syncthreads();
    if (threadIdx.x < 4) {
      const int i = threadIdx.x;
      int32_t least = INT32_MAX;
      for (int w = 0; w < warps; ++w) least = bounds[w][i] < least ? bounds[w][i] : least;
      // The boxes came as zeros, which an empty mask keeps.
      if (least != INT32_MAX) args.boxes[4 * item + i] = static_cast<float>(i < 2 ? least : -least);
    }
    __syncthreads();
  }
}

void mask_to_boxes(const MaskToBoxes& args) {
  with_floating_type(args.dtype, [&](auto element) {
    launch("mask_to_boxes", bounds_of_frames<decltype(element)>, grid_for(args.count, 1), 32 * warps,
           warps * 4 * sizeof(int32_t), args);
  });
}

MFVIS_CUDA_KERNEL(mask_to_boxes_kernel, mask_to_boxes)

}  // namespace
}  // namespace mfvis
