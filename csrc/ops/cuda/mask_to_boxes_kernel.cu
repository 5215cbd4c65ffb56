// One block per frame of an instance. A warp processes four rows at a time, 16 bytes of each per lane, and keeps the
// outermost pixels above the threshold in registers. They are reduced in shared memory once, at the end:
//
//   warps   w0  w1 ... w7          each lane: top, bottom, left, right of its pixels
//            └───┴─────┘  shuffles, then
//   bounds  [8 warps][4 ints]      in shared memory; four threads write the box
//
// Floor: memory bandwidth. Every logit is read once, in order.
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

// aligned: a lane's columns are adjacent and read in one load. Else they lie 32 apart, so that the warp reads adjacent
// columns.
template <typename T, bool aligned>
__global__ void __launch_bounds__(32 * warps) bounds_of_frames(MaskToBoxes args) {
  int32_t (*const bounds)[4] = shared_memory<int32_t[4]>();
  constexpr int per_lane = Chunk<T>::size, at_once = 4;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t height = static_cast<int32_t>(args.height), width = static_cast<int32_t>(args.width);
  const Compute<T> threshold = static_cast<Compute<T>>(args.threshold);
  for (int64_t item = blockIdx.x; item < args.count; item += gridDim.x) {
    const T* const frame = static_cast<const T*>(args.logits) + item * args.height * args.width;
    // Four minima: of x, of y, and of their negatives.
    int32_t bound[4] = {INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX};
    for (int32_t y = warp * at_once; y < height; y += warps * at_once) {
      for (int32_t first = 0; first < width; first += 32 * per_lane) {
        const auto column_of = [=](int k) { return first + (aligned ? lane * per_lane + k : lane + 32 * k); };
        Chunk<T> rows[at_once];
#pragma unroll
        for (int r = 0; r < at_once; ++r) {
          if (y + r >= height) break;
          const T* const row = frame + static_cast<int64_t>(y + r) * width;
          if constexpr (aligned) {
            if (column_of(0) < width) rows[r] = *reinterpret_cast<const Chunk<T>*>(row + column_of(0));
          } else {
#pragma unroll
            for (int k = 0; k < per_lane; ++k) {
              if (column_of(k) < width) rows[r].at[k] = row[column_of(k)];
            }
          }
        }
#pragma unroll
        for (int r = 0; r < at_once; ++r) {
          if (y + r >= height) break;
#pragma unroll
          for (int k = 0; k < per_lane; ++k) {
            const int32_t x = column_of(k);
            if (x >= width || !(load(rows[r].at[k]) > threshold)) continue;
            const int32_t here[4] = {x, y + r, -x - 1, -(y + r) - 1};
            for (int i = 0; i < 4; ++i) bound[i] = here[i] < bound[i] ? here[i] : bound[i];
          }
        }
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
      // The boxes are initialized to zero, which an empty mask keeps.
      if (least != INT32_MAX) args.boxes[4 * item + i] = static_cast<float>(i < 2 ? least : -least);
    }
    __syncthreads();
  }
}

void mask_to_boxes(const MaskToBoxes& args) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    const bool aligned = reinterpret_cast<uintptr_t>(args.logits) % 16 == 0 && args.width % Chunk<T>::size == 0;
    launch("mask_to_boxes", aligned ? bounds_of_frames<T, true> : bounds_of_frames<T, false>, grid_for(args.count, 1),
           32 * warps, warps * 4 * sizeof(int32_t), args);
  });
}

MFVIS_CUDA_KERNEL(mask_to_boxes_kernel, mask_to_boxes)

}  // namespace
}  // namespace mfvis
