// The matches of a pair listed by source, once for all instances: a pixel's gradient is gathered, so it needs the
// matches of which it is the source.
//
//   total     [B, P]         space that the lists of a pair have taken
//   count     [B, P, H·W]    the length of a source pixel's list
//   end       [B, P, H·W]    its end, in
//   code      [B, P, K·H·W]  k·H·W + target pixel; finally the target pixel only
//   weight    [B, P, K·H·W]
//
// The position of a list, and the order in which it is filled, depend on the order of the threads. But each list is
// sorted before it is read.
#pragma once

#include "tk_loss_matches.cuh"

namespace mfvis {
namespace {

__global__ void __launch_bounds__(threads) clear_counts(int32_t* counts, int64_t size) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < size; i += step) counts[i] = 0;
}

// Calls visit(list, k, pixel, source) for every match with a weight, one thread per target pixel.
template <typename Visit>
__device__ void each_match_of_all(const TkLoss& args, const Visit& visit) {
  const int64_t area = args.height * args.width, lists = args.videos * args.pair_count;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < lists * area; i += step) {
    const int64_t list = i / area;
    const int32_t pixel = static_cast<int32_t>(i - list * area);
    each_match(args, list, pixel, 0, args.matches,
               [&](int32_t k, int32_t source, float) { visit(list, k, pixel, source); });
  }
}

__global__ void __launch_bounds__(threads) count_matches(TkLoss args, Layout layout) {
  const int64_t area = args.height * args.width;
  each_match_of_all(
      args, [&](int64_t list, int32_t, int32_t, int32_t source) { atomicAdd(layout.count + list * area + source, 1); });
}

// Every source pixel gets space for its list: a prefix sum over the block, and one atomic addition for its 256 pixels.
__global__ void __launch_bounds__(threads) scan_list_offsets(TkLoss args, Layout layout) {
  int32_t* const sums = shared_memory<int32_t>();  // [8 warps], then the start of the block's space
  const int64_t area = args.height * args.width, tiles = ceil_div(area, threads);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t item = blockIdx.x; item < args.videos * args.pair_count * tiles; item += gridDim.x) {
    const int64_t list = item / tiles, pixel = item % tiles * threads + threadIdx.x;
    const int32_t size = pixel < area ? layout.count[list * area + pixel] : 0;
    int32_t before = size;  // after the loop: the sizes up to this lane
    for (int step = 1; step < 32; step *= 2) {
      const int32_t other = __shfl_up_sync(whole_warp, before, step);
      before += lane >= step ? other : 0;
    }
    if (lane == 31) sums[warp] = before;
    __syncthreads();
    if (threadIdx.x == 0) {
      int32_t total = 0;
      for (int w = 0; w < warps; ++w) {
        const int32_t here = sums[w];
        sums[w] = total;
        total += here;
      }
      sums[warps] = atomicAdd(layout.total + list, total);
    }
    __syncthreads();
    // The begin of the list; filling it moves this to the end.
    if (pixel < area) layout.end[list * area + pixel] = sums[warps] + sums[warp] + before - size;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(threads) fill_lists(TkLoss args, Layout layout) {
  const int64_t area = args.height * args.width;
  each_match_of_all(args, [&](int64_t list, int32_t k, int32_t pixel, int32_t source) {
    const int32_t slot = atomicAdd(layout.end + list * area + source, 1);
    layout.code[list * args.matches * area + slot] = k * static_cast<int32_t>(area) + pixel;
  });
}

// One thread sorts one list: by insertion, because most are as long as a pixel has matches, and longer ones first at
// larger steps (Shell's sort), because in a large window thousands of pixels may share a match. Then it stores what the
// gradient needs.
__global__ void __launch_bounds__(threads) sort_lists(TkLoss args, Layout layout) {
  const int64_t area = args.height * args.width, count = args.videos * args.pair_count * area;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step) {
    const int64_t base = i / area * args.matches * area;
    const int32_t size = layout.count[i];
    int32_t* const code = layout.code + base + layout.end[i] - size;
    float* const weight = layout.weight + base + layout.end[i] - size;
    int32_t gap = 1;
    while (gap < size / 8) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) {
      for (int32_t sorted = gap; sorted < size; ++sorted) {
        const int32_t moved = code[sorted];
        int32_t at = sorted;
        for (; at >= gap && code[at - gap] > moved; at -= gap) code[at] = code[at - gap];
        code[at] = moved;
      }
    }
    for (int32_t j = 0; j < size; ++j) {
      weight[j] = args.weight[base + code[j]];
      code[j] = static_cast<int32_t>(code[j] % area);
    }
  }
}

// Runs all of the above.
void list_by_source(const char* op, const TkLoss& args, const Layout& layout) {
  const int64_t area = args.height * args.width, lists = args.videos * args.pair_count;
  launch(op, clear_counts, grid_for(lists * (1 + area), threads), threads, 0, layout.total, lists * (1 + area));
  launch(op, count_matches, grid_for(lists * area, threads), threads, 0, args, layout);
  launch(op, scan_list_offsets, grid_for(lists * ceil_div(area, threads), 1), threads, (warps + 1) * sizeof(int32_t),
         args, layout);
  launch(op, fill_lists, grid_for(lists * area, threads), threads, 0, args, layout);
  launch(op, sort_lists, grid_for(lists * area, threads), threads, 0, args, layout);
}

}  // namespace
}  // namespace mfvis
