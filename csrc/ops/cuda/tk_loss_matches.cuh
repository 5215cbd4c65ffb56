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

constexpr int threads = 256;
constexpr int warps = threads / 32;
// With fewer blocks, the instances are divided among more. The emulator needs few, so that small cases cover both.
#ifdef MFVIS_EMULATED
constexpr int64_t min_blocks = 3;
#else
constexpr int64_t min_blocks = 1024;
#endif

// The parts of the scratch memory, whose sizes tk_loss_scratch_bytes() computes.
struct Layout {
  uint32_t* counted;  // [masks, H·W]
  void* partial;      // [N, P, tiles, 2], forward; the following share its memory, backward
  int32_t* total;     // [B, P]
  int32_t* count;     // [B, P, H·W]
  int32_t* end;       // [B, P, H·W]
  int32_t* code;      // [B, P, K·H·W]
  float* weight;      // [B, P, K·H·W]
};

Layout layout_of(const TkLoss& args) {
  const int64_t area = args.height * args.width, lists = args.videos * args.pair_count;
  Layout layout;
  layout.counted = static_cast<uint32_t*>(args.scratch);
  layout.partial = static_cast<char*>(args.scratch) + tk_loss_counted_bytes(args);
  layout.total = static_cast<int32_t*>(layout.partial);
  layout.count = layout.total + lists;
  layout.end = layout.count + lists * area;
  layout.code = layout.end + lists * area;
  layout.weight = reinterpret_cast<float*>(layout.code + lists * args.matches * area);
  return layout;
}

// counted: block = 256 pixels x one mask of instances. A lane converts its instance's box to pixels, a warp those of
// one frame. Then all threads test the boxes that share a row with the block's pixels.
struct PixelBox {
  int32_t x1, x2, y1, y2;
};
struct CountedTile {
  PixelBox boxes[warps][instances_per_mask];
  uint32_t near[warps];  // bit i: boxes[..][i] shares a row with the tile
};

__global__ void __launch_bounds__(threads) find_counted(TkLoss args, Layout layout) {
  CountedTile& shared = *shared_memory<CountedTile>();
  const int64_t area = args.height * args.width, masks = ceil_div(args.instances, instances_per_mask);
  const int64_t tiles = ceil_div(area, threads);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t item = blockIdx.x; item < tiles * masks; item += gridDim.x) {
    const int64_t begin = item % tiles * threads, pixel = begin + threadIdx.x,
                  n = item / tiles * instances_per_mask + lane;
    const int32_t width = static_cast<int32_t>(args.width), y = static_cast<int32_t>(pixel) / width;
    const int32_t x = static_cast<int32_t>(pixel) - y * width;
    const int64_t end = min(begin + threads, area);
    const int32_t top = static_cast<int32_t>(begin) / width, bottom = static_cast<int32_t>(end - 1) / width;
    uint32_t bits = 0;
    for (int64_t first = 0; first < args.frames; first += warps) {
      bool near = false;
      if (n < args.instances && first + warp < args.frames) {
        const float* const box = args.boxes + (n * args.frames + first + warp) * 4;
        if (box_is_present(box)) {
          const Span rows = pixels_inside(box[1], box[3], args.height);
          const Span columns = pixels_inside(box[0], box[2], args.width);
          near = rows.begin <= bottom && rows.end > top;
          shared.boxes[warp][lane] = {static_cast<int32_t>(columns.begin), static_cast<int32_t>(columns.end),
                                      static_cast<int32_t>(rows.begin), static_cast<int32_t>(rows.end)};
        }
      }
      const uint32_t all_near = __ballot_sync(whole_warp, near);
      if (lane == 0) shared.near[warp] = all_near;
      __syncthreads();
      for (int frame = 0; frame < warps; ++frame) {
        for (uint32_t left = shared.near[frame]; left != 0; left &= left - 1) {
          const int i = __ffs(static_cast<int>(left)) - 1;
          const PixelBox box = shared.boxes[frame][i];
          bits |= static_cast<uint32_t>(x >= box.x1 && x < box.x2 && y >= box.y1 && y < box.y2) << i;
        }
      }
      __syncthreads();
    }
    if (pixel < area) layout.counted[item / tiles * area + pixel] = bits;
  }
}

// A pair with an index outside of the clip, which only the CPU refuses, has no matches.
__device__ bool is_frame(const TkLoss& args, int64_t frame) { return frame >= 0 && frame < args.frames; }

// Calls visit(k, source, weight) for each match of a pixel that has a weight, k from `first` to `end`.
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
    const int32_t source = window.source(args.offset[at], y, x);
    if (weight != 0 && source >= 0) visit(static_cast<int32_t>(k), source, weight);
  }
}

// One of the equal parts of the masks of instances: [first, end).
struct MaskRange {
  __device__ MaskRange(const TkLoss& args, int64_t parts, int64_t part) {
    const int64_t masks = ceil_div(args.instances, instances_per_mask);
    first = static_cast<int32_t>(part * masks / parts);
    end = static_cast<int32_t>((part + 1) * masks / parts);
  }
  int32_t first, end;
};

// The number of parts of the masks that gives at least min_blocks, with `blocks` per part.
int64_t parts_of(const TkLoss& args, int64_t blocks) {
  const int64_t masks = ceil_div(args.instances, instances_per_mask),
                needed = ceil_div(min_blocks, max<int64_t>(blocks, 1));
  return min(needed, masks);
}

}  // namespace
}  // namespace mfvis
