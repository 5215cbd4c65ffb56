// The part that both passes of tk_loss share: the instances for which a pixel counts, and its matches.
//
//   counted   [N / 32][H·W]  masks of 32 bits      bit n of a pixel: it counts for instance n; 1/160 of the logits
#pragma once

#include "../../common/box.h"
#include "../search_window.h"
#include "../tk_loss.h"
#include "instances.cuh"

namespace mfvis {
namespace {

constexpr int threads = pixels_of_tk_loss_tile;
constexpr int warps = threads / 32;
// With fewer blocks, the instances are divided among more. The emulator needs few, so that small cases cover both.
#ifdef MFVIS_EMULATED
constexpr int64_t min_blocks = 3;
#else
constexpr int64_t min_blocks = 792;  // two for each place on an H200
#endif

// counted: block = 256 pixels x one mask of instances. A warp converts the boxes of one frame to pixels, one lane each.
// Then a lane marks the pixels of its warp that its instance's boxes hold, and exchanges bits with the other lanes:
//
//   instance  i0  0 1 1 1 0 0 ..        pixel  p0  0 0 1 ..
//             i1  0 0 0 1 1 1 ..   ->          p1  1 0 1 ..
//             i2  1 1 0 0 0 0 ..               p2  1 0 0 ..
struct PixelBox {
  int32_t x1, x2, y1, y2;
};
struct CountedTile {
  PixelBox boxes[warps][instances_per_mask];
};

// Bit j of lane i becomes bit i of lane j: halves, quarters, ... of the matrix change places.
__device__ __forceinline__ uint32_t transpose_over_warp(uint32_t bits) {
  uint32_t low = 0x0000ffffu;
  for (unsigned step = 16; step > 0; step /= 2, low ^= low << step) {
    const uint32_t other = __shfl_xor_sync(whole_warp, bits, step);
    bits = (threadIdx.x & step) != 0 ? (bits & ~low) | (other >> step & low) : (bits & low) | (other << step & ~low);
  }
  return bits;
}

// Bits [begin, end) of a word.
__device__ __forceinline__ uint32_t bits_between(int32_t begin, int32_t end) {
  return begin < end ? (~0u >> (32 - (end - begin))) << begin : 0;
}

__global__ void __launch_bounds__(threads) find_counted(TkLoss args) {
  CountedTile& shared = *shared_memory<CountedTile>();
  const int64_t area = args.height * args.width, tiles = ceil_div(area, threads);
  const int64_t masks = masks_of(args.instances);
  const int32_t width = static_cast<int32_t>(args.width);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t item = blockIdx.x; item < tiles * masks; item += gridDim.x) {
    const int64_t pixel = item % tiles * threads + threadIdx.x, n = item / tiles * instances_per_mask + lane;
    const int32_t first_pixel = static_cast<int32_t>(pixel - lane);
    uint32_t inside = 0;  // bit j: pixel first_pixel + j is in a box of instance n
    for (int64_t first = 0; first < args.frames; first += warps) {
      PixelBox converted{0, 0, 0, 0};
      if (n < args.instances && first + warp < args.frames) {
        const float* const box = args.boxes + (n * args.frames + first + warp) * 4;
        if (box_is_present(box)) {
          const Span rows = pixels_inside(box[1], box[3], args.height);
          const Span columns = pixels_inside(box[0], box[2], args.width);
          converted = {static_cast<int32_t>(columns.begin), static_cast<int32_t>(columns.end),
                       static_cast<int32_t>(rows.begin), static_cast<int32_t>(rows.end)};
        }
      }
      shared.boxes[warp][lane] = converted;
      __syncthreads();
      // The warp's pixels, row by row.
      int32_t y = first_pixel / width, x = first_pixel - y * width;
      for (int32_t begin = 0; begin < 32; begin += width - x, x = 0, ++y) {
        const int32_t end = min(32, begin + width - x);
        for (int frame = 0; frame < warps; ++frame) {
          const PixelBox box = shared.boxes[frame][lane];
          const bool has_row = (box.y1 <= y) & (y < box.y2);
          inside |= has_row ? bits_between(max(begin, begin + box.x1 - x), min(end, begin + box.x2 - x)) : 0;
        }
      }
      __syncthreads();
    }
    const uint32_t counted = transpose_over_warp(inside);
    if (pixel < area) args.counted[item / tiles * area + pixel] = counted;
  }
}

// A pair with an index outside of the clip, which only the CPU refuses, has no matches.
__device__ bool is_frame(const TkLoss& args, int64_t frame) { return frame >= 0 && frame < args.frames; }

// Calls visit(candidate, source, weight) for each match of a pixel that has a weight, of those from `first` to `end`.
template <typename Visit>
__device__ __forceinline__ void each_match(const TkLoss& args, int64_t list, int32_t pixel, int64_t first, int64_t end,
                                           const Visit& visit) {
  const SearchWindow window(args.shift ? args.shift + 2 * list : nullptr, args.height, args.width, args.radius,
                            args.dilation);
  const int32_t y = pixel / window.width, x = pixel - y * window.width;
  const int64_t area = args.height * args.width;
  int64_t at = (list * args.matches + first) * area + pixel;
  for (int64_t k = first; k < end; ++k, at += area) {
    const float weight = args.weight[at];
    const int32_t candidate = args.offset[at], source = window.source(candidate, y, x);
    if (weight != 0 && source >= 0) visit(candidate, source, weight);
  }
}

// The number of parts of the masks of instances that gives at least min_blocks, with `blocks` per part. Part i
// has the masks i, i + parts, i + 2 · parts, ..., because the instances of a video are often next to each other.
int32_t parts_of(const TkLoss& args, int64_t blocks) {
  const int64_t needed = ceil_div(min_blocks, max<int64_t>(blocks, 1));
  return static_cast<int32_t>(min<int64_t>(needed, masks_of(args.instances)));
}

}  // namespace
}  // namespace mfvis
