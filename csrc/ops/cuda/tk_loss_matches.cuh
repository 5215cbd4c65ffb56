// What both passes of tk_loss know of a pixel: for which instances it counts, and what its matches are.
//
//   counted   [N / 32][H·W]  words of 32 bits      bit n of a pixel: it counts for instance n; 1/160 of the logits
#pragma once

#include "../../common/box.h"
#include "../tk_loss.h"
#include "instances.cuh"

namespace mfvis {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / 32;
// With fewer, the instances are divided among more. On the emulator few are enough, so that small cases take both ways.
#ifdef MFVIS_EMULATED
constexpr int64_t enough_blocks = 3;
#else
constexpr int64_t enough_blocks = 1024;
#endif

// Where the parts of the scratch memory begin; tk_loss_scratch_bytes() has their sizes.
struct Layout {
  uint32_t* counted;  // [words, H·W]
  void* partial;      // [N, P, tiles, 2], forward; in its place the following, backward
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

// counted: block = 256 pixels x one word of instances. A lane turns its instance's box into pixels, a warp those of one
// frame; then all look through the boxes that have a row in common with the block's pixels.
struct PixelBox {
  int32_t x1, x2, y1, y2;
};
struct CountedTile {
  PixelBox boxes[warps][word];
  uint32_t near[warps];  // bit i: boxes[..][i] has such a row
};

__global__ void __launch_bounds__(threads) find_counted(TkLoss args, Layout layout) {
  CountedTile& shared = *shared_memory<CountedTile>();
  const int64_t area = args.height * args.width, words = ceil_div(args.instances, word);
  const int64_t tiles = ceil_div(area, threads);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t item = blockIdx.x; item < tiles * words; item += gridDim.x) {
    const int64_t begin = item % tiles * threads, pixel = begin + threadIdx.x, n = item / tiles * word + lane;
    const int32_t width = static_cast<int32_t>(args.width), y = static_cast<int32_t>(pixel) / width;
    const int32_t x = static_cast<int32_t>(pixel) - y * width;
    const int64_t end = begin + threads < area ? begin + threads : area;
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

// A pair that names no frame of the clip, which only the CPU looks for, has no matches.
__device__ bool is_frame(const TkLoss& args, int64_t named) { return named >= 0 && named < args.frames; }

// Where the matches of one pixel of a pair lie.
struct Window {
  __device__ Window(const TkLoss& args, int64_t list, int32_t pixel)
      : height(static_cast<int32_t>(args.height)),
        width(static_cast<int32_t>(args.width)),
        side(static_cast<int32_t>(2 * args.radius + 1)),
        dilation(static_cast<int32_t>(args.dilation)),
        per_side(1.0f / static_cast<float>(side)) {
    const int64_t* const shift = args.shift ? args.shift + 2 * list : nullptr;
    const int32_t reach = static_cast<int32_t>(args.radius) * dilation, row = pixel / width;
    first_y = row + (shift ? near(shift[0]) : 0) - reach;
    first_x = pixel - row * width + (shift ? near(shift[1]) : 0) - reach;
  }

  // The pixel of the source frame, or -1 if there is no match.
  __device__ int32_t source(int32_t candidate) const {
    const int32_t row = row_of(candidate, per_side);
    const int32_t y = first_y + dilation * row, x = first_x + dilation * (candidate - row * side);
    const bool exists = candidate >= 0 && candidate < side * side && y >= 0 && y < height && x >= 0 && x < width;
    return exists ? y * width + x : -1;
  }

  static __device__ int32_t near(int64_t shift) {
    constexpr int64_t far = 1 << 28;
    return static_cast<int32_t>(shift < -far ? -far : shift > far ? far : shift);
  }

  int32_t height, width, side, dilation;
  float per_side;
  int32_t first_y, first_x;
};

// visit(k, source, weight) for each match of a pixel that weighs something, k from `first` to `end`.
template <typename Visit>
__device__ __forceinline__ void each_match(const TkLoss& args, int64_t list, int32_t pixel, int64_t first, int64_t end,
                                           const Visit& visit) {
  const Window window(args, list, pixel);
  const int64_t area = args.height * args.width;
  int64_t at = (list * args.matches + first) * area + pixel;
  for (int64_t k = first; k < end; ++k, at += area) {
    const float weight = args.weight[at];
    const int32_t source = window.source(args.offset[at]);
    if (weight != 0 && source >= 0) visit(static_cast<int32_t>(k), source, weight);
  }
}

// One of the equal parts of the words of instances: [first, end).
struct Words {
  __device__ Words(const TkLoss& args, int64_t parts, int64_t part) {
    const int64_t words = ceil_div(args.instances, word);
    first = static_cast<int32_t>(part * words / parts);
    end = static_cast<int32_t>((part + 1) * words / parts);
  }
  int32_t first, end;
};

// Into how many the words are divided so that there are enough blocks, of which one part has `blocks`.
int64_t parts_of(const TkLoss& args, int64_t blocks) {
  const int64_t words = ceil_div(args.instances, word), wanted = ceil_div(enough_blocks, blocks > 0 ? blocks : 1);
  return wanted < words ? wanted : words;
}

}  // namespace
}  // namespace mfvis
