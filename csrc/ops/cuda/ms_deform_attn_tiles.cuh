// What both passes of the attention share: the corners of a sample, tiles of queries, and the lanes of a query. Where
// every pixel of the levels asks, as in an encoder, a tile has 8 x 8 neighbors: they sample the same pixels.
#pragma once

#include <cmath>

#include "../../common/cuda.h"
#include "../ms_deform_attn.h"

namespace mfvis {
namespace {

constexpr int threads = 256;

// V adjacent channels, one load or store.
template <typename T, int V>
struct alignas(sizeof(T) * V) Channels {
  T at[V];
};

struct Level {
  int32_t height;
  int32_t width;
  int32_t start;
};

// A level outside of `value`, which only the CPU refuses, has no pixels.
__device__ __forceinline__ Level level_of(const MsDeformAttn& args, int l) {
  const int64_t* const shape = args.shapes_on_device;
  const int64_t height = shape != nullptr ? shape[2 * l] : args.level[l].height;
  const int64_t width = shape != nullptr ? shape[2 * l + 1] : args.level[l].width;
  const int64_t start = shape != nullptr ? args.starts_on_device[l] : args.level[l].start;
  const bool within = height > 0 && height <= args.pixels && width > 0 && width <= args.pixels && start >= 0 &&
                      start <= args.pixels && height * width <= args.pixels - start;
  if (!within) return {0, 0, 0};
  return {static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(start)};
}

// The corners of a sample: top left, top right, bottom left, bottom right.
template <typename C>
struct Corners {
  C right, below;  // position between the corners, 0 to 1
  int32_t x, y;    // pixel of the first corner, even if there is none
  int32_t row[4];  // rows of `value` within one batch item; -1 if there is no pixel

  __device__ __forceinline__ Corners(const Level& level, const C* location) {
    const C x_at = in_pixels(location[0], level.width), y_at = in_pixels(location[1], level.height);
    right = x_at - floor_of(x_at);
    below = y_at - floor_of(y_at);
    x = pixel_of(floor_of(x_at), level.width);
    y = pixel_of(floor_of(y_at), level.height);
    const bool has_x[2] = {x >= 0 && x < level.width, x >= -1 && x + 1 < level.width};
    const bool has_y[2] = {y >= 0 && y < level.height, y >= -1 && y + 1 < level.height};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Fits in 32 bits only if there is a pixel.
      const uint32_t at = static_cast<uint32_t>(level.start) +
                          static_cast<uint32_t>(y + i / 2) * static_cast<uint32_t>(level.width) +
                          static_cast<uint32_t>(x + i % 2);
      row[i] = has_x[i % 2] && has_y[i / 2] ? static_cast<int32_t>(at) : -1;
    }
  }

  __device__ __forceinline__ C share(int i) const { return (i % 2 ? right : 1 - right) * (i / 2 ? below : 1 - below); }
};

constexpr int32_t tile_side = 8, tile_queries = tile_side * tile_side;

// How the queries of a batch item are divided into tiles.
struct Tiling {
  Level level[max_deform_levels];
  int32_t first_tile[max_deform_levels + 1];  // of each level
  bool by_level;                              // else 64 queries in a row
};

__device__ void find_tiling(const MsDeformAttn& args, Tiling& tiling) {
  const int32_t levels = static_cast<int32_t>(args.levels);
  const int own = threadIdx.x;
  if (own < levels) tiling.level[own] = level_of(args, own);
  __syncthreads();
  if (own == 0) {
    int64_t pixels = 0;
    int32_t tiles = 0;
    bool by_level = args.queries == args.pixels;
    for (int32_t l = 0; l < levels; ++l) {
      const Level level = tiling.level[l];
      by_level &= level.start == pixels;
      pixels += static_cast<int64_t>(level.height) * level.width;
      tiling.first_tile[l] = tiles;
      tiles += static_cast<int32_t>(ceil_div(level.height, tile_side) * ceil_div(level.width, tile_side));
    }
    tiling.by_level = by_level && pixels == args.pixels;
    tiling.first_tile[levels] = tiling.by_level ? tiles : static_cast<int32_t>(ceil_div(args.queries, tile_queries));
  }
  __syncthreads();
}

// Query i of a tile is first + i / 8 · step + i % 8.
struct QueryTile {
  __device__ QueryTile(const MsDeformAttn& args, const Tiling& tiling, int32_t tile) {
    if (!tiling.by_level) {
      first = int64_t{tile} * tile_queries;
      step = rows = columns = tile_side;
      end = args.queries;
      return;
    }
    int32_t l = 0;
    while (tile >= tiling.first_tile[l + 1]) ++l;
    const Level level = tiling.level[l];
    const int32_t across = static_cast<int32_t>(ceil_div(level.width, tile_side)), within = tile - tiling.first_tile[l];
    const int32_t y = within / across * tile_side, x = within % across * tile_side;
    first = level.start + int64_t{y} * level.width + x;
    step = level.width;
    rows = level.height - y;
    columns = level.width - x;
    end = args.queries;
  }

  // -1 if there is no such query.
  __device__ __forceinline__ int64_t query(int32_t i) const {
    const int32_t row = i / tile_side, column = i % tile_side;
    const int64_t found = first + int64_t{row} * step + column;
    return row < rows && column < columns && found < end ? found : -1;
  }

  int64_t first, end;
  int32_t step, rows, columns;
};

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

// For whole warps, in which `lanes` adjacent lanes have the same query. So is the next function.
template <int32_t lanes, typename C>
__device__ __forceinline__ C sum_over_lanes(C value) {
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(whole_warp, value, step);
  return value;
}

// The largest logit of a query's samples, NaN ignored; -inf if there is none.
template <int32_t lanes, typename C>
__device__ __forceinline__ C largest_over_lanes(const C* logits, int32_t samples) {
  C largest = -static_cast<C>(INFINITY);
#pragma unroll 1  // three times, for 12 samples
  for (int32_t s = threadIdx.x % lanes; s < samples; s += lanes) largest = max(largest, logits[s]);
  for (int step = lanes / 2; step > 0; step /= 2) largest = max(largest, __shfl_xor_sync(whole_warp, largest, step));
  return largest;
}

}  // namespace
}  // namespace mfvis
