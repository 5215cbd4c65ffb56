// One launch. For 3x3 patches of three channels and k up to 9, a block moves a tile of the target frame through the
// window (window.cuh), and a lane keeps the k best candidates of its 4 pixels in registers, sorted:
//
//   best    [4][k]   64 bits:  [ squared distance, a float's bits | window index ]
//   waiting [4]      one more candidate that is near enough, not yet inserted
//
// Squared distances are not negative, so their bits have the order of the floats, and ties go to the smaller index
// whatever the order of the candidates. The search starts in the middle of the window: most of the later candidates
// fail the single comparison with the last one kept. An insertion costs 6·k operations of the whole warp even if a
// single lane needs it. So a lane's candidate waits until a lane of the warp finds a second one, some seven candidates
// later.
//
// Floor: 11 operations per pixel, pair and candidate (6 for the squares, 4 for sliding sums, one comparison), which is
// 0.17 GFLOP for 5 pairs of 120x216 at radius 5, plus the insertions. Memory traffic: frames in, distances and offsets
// out.
#include <cfloat>

#include "../search_window.h"
#include "../temporal_topk.h"
#include "window.cuh"

namespace mfvis {
namespace {

constexpr int max_register_k = 9;
constexpr int threads = 128;

// The frames and the shift of a pair. A pair with an index outside of the clip matches nothing.
struct Pair {
  const void* target;
  const void* source;
  bool exists;
  int64_t shift_y;
  int64_t shift_x;
};

__device__ Pair pair_of(const TemporalTopk& args, int64_t item, int64_t element_size) {
  const int64_t video = item / args.pair_count, pair = item % args.pair_count;
  const int64_t target = args.pairs[2 * pair], source = args.pairs[2 * pair + 1];
  const bool exists = target >= 0 && target < args.frame_count && source >= 0 && source < args.frame_count;
  const int64_t frame = args.channels * args.height * args.width * element_size;
  const char* const frames = static_cast<const char*>(args.frames) + video * args.frame_count * frame;
  const int64_t reach = args.radius * args.dilation;
  const int64_t shift_y = args.shift ? clamp_shift(args.shift[2 * item], args.height, reach) : 0;
  const int64_t shift_x = args.shift ? clamp_shift(args.shift[2 * item + 1], args.width, reach) : 0;
  return {frames + (exists ? target : 0) * frame, frames + (exists ? source : 0) * frame, exists,
          exists ? shift_y : args.height + reach, shift_x};
}

// A candidate, as two halves: the compiler would implement the selection of 64-bit integers as minima and compare
// twice.
struct Key {
  uint32_t squared;  // bits of a float
  uint32_t index;
};

__device__ __forceinline__ Key key_of(float squared, unsigned index) { return {bits_as<uint32_t>(squared), index}; }
__device__ __forceinline__ float squared_of(Key key) { return bits_as<float>(key.squared); }
__device__ __forceinline__ bool is_before(Key a, Key b) {
  const auto as_one = [](Key key) { return static_cast<uint64_t>(key.squared) << 32 | key.index; };
  return as_one(a) < as_one(b);
}
__device__ __forceinline__ Key choose(bool first, Key a, Key b) {
  return {first ? a.squared : b.squared, first ? a.index : b.index};
}

constexpr Key none{~0u, ~0u};  // greater than every key: inserting it changes nothing

template <int K>
__device__ __forceinline__ void insert(Key key, Key (&best)[K]) {
  bool before[K];
#pragma unroll
  for (int j = 0; j < K; ++j) before[j] = is_before(key, best[j]);
#pragma unroll
  for (int j = K - 1; j > 0; --j) best[j] = choose(before[j - 1], best[j - 1], choose(before[j], key, best[j]));
  best[0] = choose(before[0], key, best[0]);
}

template <int K, int STACK>
__global__ void __launch_bounds__(threads_of_window, K < 7 ? 3 : 2)
    match_tiles(TemporalTopk args, WindowParts parts, int64_t element_size) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * rows_of_lane;
  const int64_t down = tiles_down(args.height), across = tiles_across(args.width), area = args.height * args.width;
  for (int64_t tile = blockIdx.x; tile < args.videos * args.pair_count * down * across; tile += gridDim.x) {
    const int64_t item = tile / (down * across);
    const int tile_y = static_cast<int>(tile / across % down) * tile_rows;
    const int tile_x = static_cast<int>(tile % across) * tile_columns;
    const Pair pair = pair_of(args, item, element_size);
    const TileWindow window{pair.target,
                            pair.source,
                            args.dtype,
                            static_cast<int>(args.height),
                            static_cast<int>(args.width),
                            tile_y,
                            tile_x,
                            static_cast<int>(pair.shift_y),
                            static_cast<int>(pair.shift_x),
                            static_cast<int>(args.radius),
                            static_cast<int>(args.dilation),
                            parts};
    const int first_y = tile_y + row, x = tile_x - 1 + lane;
    const bool has_pixels = lane > 0 && lane < 31 && x < args.width;

    // Skip insertion for pixels outside the tile and for infinite distances.
    Key best[rows_of_lane][K], waiting[rows_of_lane];
#pragma unroll
    for (int r = 0; r < rows_of_lane; ++r) {
      const bool exists = has_pixels && first_y + r < args.height;
      waiting[r] = none;
#pragma unroll
      for (int j = 0; j < K; ++j) best[r][j] = key_of(exists ? FLT_MAX : -INFINITY, none.index);
    }
    for_each_candidate<STACK>(window, [&](int r, int index, float squared) {
      const bool near = squared <= squared_of(best[r][K - 1]);
      if (!__any_sync(whole_warp, near)) return;
      if (__any_sync(whole_warp, near && waiting[r].index != none.index)) {
        insert(waiting[r], best[r]);
        waiting[r] = none;
      }
      if (near) waiting[r] = key_of(squared, static_cast<unsigned>(index));
    });
#pragma unroll
    for (int r = 0; r < rows_of_lane; ++r) {
      insert(waiting[r], best[r]);
      if (!has_pixels || first_y + r >= args.height) continue;
      const int64_t at = item * K * area + static_cast<int64_t>(first_y + r) * args.width + x;
#pragma unroll
      for (int j = 0; j < K; ++j) {
        const bool found = best[r][j].index != none.index;
        args.distance[at + j * area] = found ? sqrtf(squared_of(best[r][j])) : INFINITY;
        args.offset[at + j * area] = found ? static_cast<int16_t>(best[r][j].index) : int16_t{-1};
      }
    }
  }
}

// Any patch size, channels and k: one thread per pixel, all candidates in ascending order, all taps of the patch. The k
// best are kept sorted in the results themselves, squared until the end.
template <typename T>
__global__ void __launch_bounds__(threads, 4) match_pixels(TemporalTopk args) {
  const int64_t height = args.height, width = args.width, area = height * width, h = args.patch_size / 2;
  const int64_t side = 2 * args.radius + 1, count = args.videos * args.pair_count * area;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; at < count;
       at += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t item = at / area, y = at % area / width, x = at % width;
    const Pair pair = pair_of(args, item, sizeof(T));
    float* const distance = args.distance + item * args.k * area + y * width + x;
    int16_t* const offset = args.offset + item * args.k * area + y * width + x;
    for (int64_t j = 0; j < args.k; ++j) {
      distance[j * area] = INFINITY;
      offset[j * area] = -1;
    }
    float worst = INFINITY;
    for (int64_t index = 0; index < side * side; ++index) {
      const int64_t dy = pair.shift_y + args.dilation * (index / side - args.radius);
      const int64_t dx = pair.shift_x + args.dilation * (index % side - args.radius);
      if (y + dy < 0 || y + dy >= height || x + dx < 0 || x + dx >= width) continue;
      const float squared =
          squared_patch_distance<float>(static_cast<const T*>(pair.target), static_cast<const T*>(pair.source),
                                        args.channels, height, width, h, y, x, dy, dx);
      if (!(squared < worst)) continue;
      int64_t j = args.k - 1;
      for (; j > 0 && squared < distance[(j - 1) * area]; --j) {
        distance[j * area] = distance[(j - 1) * area];
        offset[j * area] = offset[(j - 1) * area];
      }
      distance[j * area] = squared;
      offset[j * area] = static_cast<int16_t>(index);
      worst = distance[(args.k - 1) * area];
    }
    for (int64_t j = 0; j < args.k; ++j) distance[j * area] = sqrtf(distance[j * area]);
  }
}

template <int K>
void match_in_registers(const TemporalTopk& args) {
  const int64_t tiles = args.videos * args.pair_count * tiles_down(args.height) * tiles_across(args.width);
  const int dilation = static_cast<int>(args.dilation);
  const WindowParts parts = parts_of_window(static_cast<int>(args.radius), dilation);
  int64_t element_size = 0;
  with_floating_type(args.dtype, [&](auto element) { element_size = sizeof(element); });
  const auto match = stacked(dilation) == 4 ? match_tiles<K, 4> : match_tiles<K, 1>;
  launch("temporal_topk", match, grid_for(tiles, 1), threads_of_window, box_bytes(parts, dilation), args, parts,
         element_size);
}

void temporal_topk(const TemporalTopk& args) {
  constexpr void (*in_registers[])(const TemporalTopk&) = {
      match_in_registers<1>, match_in_registers<2>, match_in_registers<3>,
      match_in_registers<4>, match_in_registers<5>, match_in_registers<6>,
      match_in_registers<7>, match_in_registers<8>, match_in_registers<max_register_k>};
  if (args.patch_size == 3 && args.channels == channels_of_window && args.k <= max_register_k &&
      args.height < longest_side && args.width < longest_side) {
    return in_registers[args.k - 1](args);
  }
  with_floating_type(args.dtype, [&](auto element) {
    launch("temporal_topk", match_pixels<decltype(element)>,
           grid_for(args.videos * args.pair_count * args.height * args.width, threads), threads, 0, args);
  });
}

MFVIS_CUDA_KERNEL(temporal_topk_kernel, temporal_topk)

}  // namespace
}  // namespace mfvis
