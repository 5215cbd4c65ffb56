// The traversal of a search window that temporal_topk and patch_distance share, for 3x3 patches of three channels.
//
// A block has a tile of 16 x 30 target pixels, a warp 4 rows of it, a lane a column of 4 pixels. Lanes 0 and 31 are the
// columns next to the tile: they have no pixels of their own, but the other lanes use the sums of their columns.
//
//   x0-1 x0 . . . . . x0+29 x0+30              registers of a lane, for one candidate
//    l0  l1 l2 . . . .  l30  l31
//    ╎  ┌─────────────────┐  ╎   w0  y0..3     target  [3][6]  a column with the rows above and below, loaded once
//    ╎  ├─────────────────┤  ╎   w1  y4..7     source  [3][6 + D - 1]  for D candidates above each other
//    ╎  ├─────────────────┤  ╎   w2  ..        squares    [6]  of the color difference
//    ╎  ├─────────────────┤  ╎   w3            columns    [4]  sums of 3 rows; two of them share their middle
//    ╎  └─────────────────┘  ╎                 patches    [4]  sums of 3 lanes' columns, by two shuffles
//
//   shared memory: the source, [rows][3][64] float, zero outside of the frame, for a part of the window (part_y x
//   part_x candidates) that needs at most 32 rows and 64 columns, 24 KiB. The row length is a compile-time constant, so
//   that a lane reads all its pixels from one address:
//
//     rows     16 + 2 + dilation·(part_y - 1)      at radius 5, dilation 1 the whole window: 29 x 42 pixels
//     columns  30 + 2 + dilation·(part_x - 1)
//
// Per pixel and candidate: 9 operations for the squares (6, times 6/4 for the rows above and below), 1.5 + 2 for the
// sums, 2 shuffles, 1.7 reads of shared memory; a perfect sliding sum would need 6 + 2 + 2. Only the number of
// candidates grows with the window.
#pragma once

#include "../../common/arithmetic.h"
#include "../../common/cuda.h"
#include "../../common/dtype.h"

namespace mfvis {
namespace {

constexpr int channels_of_window = 3;
constexpr int rows_of_lane = 4;
constexpr int warps_of_window = 4;
constexpr int threads_of_window = 32 * warps_of_window;
constexpr int tile_rows = rows_of_lane * warps_of_window;
constexpr int tile_columns = 30;
constexpr int box_rows = 32;
constexpr int box_columns = 64;
constexpr int box_row = channels_of_window * box_columns;
constexpr int64_t longest_side = 1 << 29;  // of a frame: coordinates, also shifted ones, fit in 32 bits

// The part of a window that is in shared memory at a time.
struct WindowParts {
  int rows;  // of candidates
  int columns;
};

// At dilation 1, four candidates above each other are processed together: they share rows of the source.
MFVIS_HOST_DEVICE int stacked(int dilation) { return dilation == 1 ? 4 : 1; }

MFVIS_HOST_DEVICE int source_rows(WindowParts parts, int dilation) {
  const int stack = stacked(dilation);
  return tile_rows + 2 + dilation * (static_cast<int>(round_up(parts.rows, stack)) - 1);
}
MFVIS_HOST_DEVICE int source_columns(WindowParts parts, int dilation) {
  return tile_columns + 2 + dilation * (parts.columns - 1);
}
// Bytes of shared memory.
MFVIS_HOST_DEVICE int64_t box_bytes(WindowParts parts, int dilation) {
  return int64_t{sizeof(float)} * box_row * source_rows(parts, dilation);
}

// The largest parts of equal size that fit. A single candidate always fits.
inline WindowParts parts_of_window(int radius, int dilation) {
  const int side = 2 * radius + 1;
  WindowParts parts{side, side};
  for (int cut = 2; source_rows(parts, dilation) > box_rows; ++cut) parts.rows = static_cast<int>(ceil_div(side, cut));
  for (int cut = 2; source_columns(parts, dilation) > box_columns; ++cut)
    parts.columns = static_cast<int>(ceil_div(side, cut));
  return parts;
}

// A tile of the target frame, and the source frame in which it is searched.
struct TileWindow {
  const void* target;  // [3, H, W] of dtype
  const void* source;
  Dtype dtype;
  int height;
  int width;
  int y;  // the tile's first pixel
  int x;
  int shift_y;
  int shift_x;
  int radius;
  int dilation;
  WindowParts parts;
};

MFVIS_HOST_DEVICE int64_t tiles_down(int64_t height) { return ceil_div(height, tile_rows); }
MFVIS_HOST_DEVICE int64_t tiles_across(int64_t width) { return ceil_div(width, tile_columns); }

// Calls body(frame) with the frame's type.
template <typename Body>
__device__ __forceinline__ void with_type_of(const void* frame, Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::f16:
      return body(static_cast<const Half*>(frame));
    case Dtype::bf16:
      return body(static_cast<const BFloat16*>(frame));
    case Dtype::f64:
      return body(static_cast<const double*>(frame));
    default:
      return body(static_cast<const float*>(frame));
  }
}

// Loads the pixel (y, x), zero outside of the frame.
template <typename T>
__device__ __forceinline__ void load_pixel(const T* frame, const TileWindow& window, int y, int x,
                                           float (&pixel)[channels_of_window]) {
  const bool inside = y >= 0 && y < window.height && x >= 0 && x < window.width;
  const int64_t area = static_cast<int64_t>(window.height) * window.width;
  const T* const from = frame + (inside ? static_cast<int64_t>(y) * window.width + x : 0);
#pragma unroll
  for (int c = 0; c < channels_of_window; ++c) {
    pixel[c] = inside ? static_cast<float>(load(from[c * area])) : 0.0f;
  }
}

// Loads the lane's column of the target from (y, x) on.
template <int ROWS>
__device__ __forceinline__ void load_column(const TileWindow& window, int y, int x,
                                            float (&column)[channels_of_window][ROWS]) {
  with_type_of(window.target, window.dtype, [&](const auto* frame) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float pixel[channels_of_window];
      load_pixel(frame, window, y + r, x, pixel);
#pragma unroll
      for (int c = 0; c < channels_of_window; ++c) column[c][r] = pixel[c];
    }
  });
}

// Loads the source from (first_y, first_x) on into shared memory.
__device__ __forceinline__ void load_box(const TileWindow& window, int first_y, int first_x, int rows, int columns,
                                         float* box) {
  __syncthreads();  // All threads are done with the previous contents.
  with_type_of(window.source, window.dtype, [&](const auto* frame) {
    for (int row = threadIdx.x / 32; row < rows; row += warps_of_window) {
      for (int column = threadIdx.x % 32; column < columns; column += 32) {
        float pixel[channels_of_window];
        load_pixel(frame, window, first_y + row, first_x + column, pixel);
#pragma unroll
        for (int c = 0; c < channels_of_window; ++c) box[row * box_row + c * box_columns + column] = pixel[c];
      }
    }
  });
  __syncthreads();
}

// Calls body(first_y, first_x, rows, columns) for each part of the window: candidates first_y.. x first_x.. , relative
// to the window's corner, with their source pixels in shared memory.
template <typename Body>
__device__ __forceinline__ void for_each_part(const TileWindow& window, float* box, const Body& body) {
  const int side = 2 * window.radius + 1;
  const int rows_to_load = source_rows(window.parts, window.dilation);
  const int columns_to_load = source_columns(window.parts, window.dilation);
  for (int first_y = 0; first_y < side; first_y += window.parts.rows) {
    for (int first_x = 0; first_x < side; first_x += window.parts.columns) {
      load_box(window, window.y - 1 + window.shift_y + window.dilation * (first_y - window.radius),
               window.x - 1 + window.shift_x + window.dilation * (first_x - window.radius), rows_to_load,
               columns_to_load, box);
      const int rows = side - first_y, columns = side - first_x;
      body(first_y, first_x, rows < window.parts.rows ? rows : window.parts.rows,
           columns < window.parts.columns ? columns : window.parts.columns);
    }
  }
}

// The i-th of 0..n-1 in an order from the middle outwards.
__device__ __forceinline__ int from_middle(int i, int n) { return (n - 1) / 2 + (i % 2 ? i / 2 + 1 : -(i / 2)); }

// The squared distance of the patches of side 2·h + 1 at (y, x) and (y + dy, x + dx), tap by tap: any patch size and
// number of channels.
template <typename Sum, typename T>
__device__ Sum squared_patch_distance(const T* target, const T* source, int64_t channels, int64_t height, int64_t width,
                                      int64_t h, int64_t y, int64_t x, int64_t dy, int64_t dx) {
  Sum sum = 0;
  for (int64_t i = y - h; i <= y + h; ++i) {
    const bool target_row = i >= 0 && i < height, source_row = i + dy >= 0 && i + dy < height;
    for (int64_t j = x - h; j <= x + h; ++j) {
      const bool in_target = target_row && j >= 0 && j < width;
      const bool in_source = source_row && j + dx >= 0 && j + dx < width;
      const T* const a = target + i * width + j;
      const T* const b = source + (i + dy) * width + j + dx;
      for (int64_t c = 0; c < channels; ++c) {
        const Sum here = in_target ? static_cast<Sum>(load(a[c * height * width])) : 0;
        const Sum difference = here - (in_source ? static_cast<Sum>(load(b[c * height * width])) : 0);
        sum += difference * difference;
      }
    }
  }
  return sum;
}

// Sums over three rows. The two middle rows of each pair of sums are added once.
__device__ __forceinline__ void sum_rows(const float (&rows)[rows_of_lane + 2], float (&sums)[rows_of_lane]) {
#pragma unroll
  for (int r = 0; r < rows_of_lane; r += 2) {
    const float middle = rows[r + 1] + rows[r + 2];
    sums[r] = rows[r] + middle;
    sums[r + 1] = middle + rows[r + 3];
  }
}

// Adds the sums of the lanes on both sides. The results of lanes 0 and 31 are not patches.
__device__ __forceinline__ float sum_lanes(float column) {
  return __shfl_up_sync(whole_warp, column, 1) + column + __shfl_down_sync(whole_warp, column, 1);
}

// Calls visit(r, index, squared) for the lane's pixel r (0..3, a compile-time constant) and every candidate: its window
// index and squared patch distance, +inf if the candidate's center is outside the frame. Candidates come from the
// middle outwards, not in the order of their indices: STACK = stacked(dilation) rows at a time, column by column.
template <int STACK, typename Visit>
__device__ __forceinline__ void for_each_candidate(const TileWindow& window, const Visit& visit) {
  constexpr int halo = rows_of_lane + 2;
  float* const box = shared_memory<float>();
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * rows_of_lane, side = 2 * window.radius + 1;

  float target[channels_of_window][halo];
  load_column(window, window.y - 1 + row, window.x - 1 + lane, target);

  // The center of the candidate at the window's corner, for the lane's first pixel.
  const int reach = window.radius * window.dilation;
  const int corner_y = window.y + row + window.shift_y - reach;
  const int corner_x = window.x - 1 + lane + window.shift_x - reach;
  const bool cropped = window.y + window.shift_y < reach || window.x + window.shift_x < reach ||
                       window.y + tile_rows - 1 + window.shift_y + reach >= window.height ||
                       window.x + tile_columns - 1 + window.shift_x + reach >= window.width;

  for_each_part(window, box, [&](int first_y, int first_x, int rows, int columns) {
    const int stacks = (rows + STACK - 1) / STACK;
    for (int i = 0; i < stacks; ++i) {
      const int above = STACK * from_middle(i, stacks);
      for (int j = 0; j < columns; ++j) {
        const int column = from_middle(j, columns);
        const int center_x = corner_x + window.dilation * (first_x + column);
        const bool column_exists = center_x >= 0 && center_x < window.width;
        const float* const from = box + (row + window.dilation * above) * box_row + window.dilation * column + lane;
        float source[channels_of_window][halo + STACK - 1];
#pragma unroll
        for (int c = 0; c < channels_of_window; ++c) {
#pragma unroll
          for (int r = 0; r < halo + STACK - 1; ++r) source[c][r] = from[r * box_row + c * box_columns];
        }
#pragma unroll
        for (int s = 0; s < STACK; ++s) {
          if (above + s >= rows) break;
          float squares[halo], sums[rows_of_lane];
#pragma unroll
          for (int r = 0; r < halo; ++r) {
            squares[r] = 0;
#pragma unroll
            for (int c = 0; c < channels_of_window; ++c) {
              const float difference = target[c][r] - source[c][r + s];
              squares[r] += difference * difference;
            }
          }
          sum_rows(squares, sums);
#pragma unroll
          for (int r = 0; r < rows_of_lane; ++r) sums[r] = sum_lanes(sums[r]);
          const int candidate_row = first_y + above + s;
          if (cropped) {
#pragma unroll
            for (int r = 0; r < rows_of_lane; ++r) {
              const int center_y = corner_y + r + window.dilation * candidate_row;
              if (!column_exists || center_y < 0 || center_y >= window.height) sums[r] = INFINITY;
            }
          }
#pragma unroll
          for (int r = 0; r < rows_of_lane; ++r) visit(r, candidate_row * side + first_x + column, sums[r]);
        }
      }
    }
  });
}

}  // namespace
}  // namespace mfvis
