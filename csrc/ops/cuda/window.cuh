// The walk over a search window that temporal_topk and patch_distance share, for 3x3 patches of three channels.
//
// A block has a tile of 16 x 30 target pixels, a warp 4 rows of it, a lane a column of 4 pixels. Lanes 0 and 31 are the
// columns beside the tile: they have no pixels of their own, the other lanes take the sums of their columns.
//
//   x0-1 x0 . . . . . x0+29 x0+30              registers of a lane, for one candidate
//    l0  l1 l2 . . . .  l30  l31
//    ╎  ┌─────────────────┐  ╎   w0  y0..3     target  [3][6]  a column with the rows above and below, loaded once
//    ╎  ├─────────────────┤  ╎   w1  y4..7     source  [3][6 + D - 1]  of D candidates above each other
//    ╎  ├─────────────────┤  ╎   w2  ..        squares    [6]  of the colour difference
//    ╎  ├─────────────────┤  ╎   w3            columns    [4]  sums of 3 rows; two of them share their middle
//    ╎  └─────────────────┘  ╎                 patches    [4]  sums of 3 lanes' columns, by two shuffles
//
//   shared memory: the source, [3][rows][columns] float, zeros outside of the frame, for a part of the window
//   (part_y x part_x candidates) that fits in 24 KiB:
//
//     rows     16 + 2 + dilation·(part_y - 1)      at radius 5, dilation 1 the whole window: 29 x 42 pixels, 14 KiB
//     columns  30 + 2 + dilation·(part_x - 1)
//
// Per pixel and candidate: 9 operations for the squares (6, and the rows above and below: x 6/4), 1.5 + 2 for the sums,
// 2 shuffles, 1.7 reads of shared memory; a perfect sliding sum would need 6 + 2 + 2. Nothing grows with the window but
// the number of candidates.
#pragma once

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
constexpr int64_t window_bytes = 24 * 1024;
constexpr int64_t longest_side = 1 << 29;  // of a frame: coordinates and shifted coordinates are 32-bit numbers

// What of a window is in shared memory at a time.
struct WindowParts {
  int rows;  // of candidates
  int columns;
};

// Candidates at dilation 1 are taken four at a time, one above the other: they share rows of the source.
MFVIS_HOST_DEVICE int stacked(int dilation) { return dilation == 1 ? 4 : 1; }

MFVIS_HOST_DEVICE int source_rows(WindowParts parts, int dilation) {
  const int stack = stacked(dilation);
  return tile_rows + 2 + dilation * ((parts.rows + stack - 1) / stack * stack - 1);
}
MFVIS_HOST_DEVICE int source_columns(WindowParts parts, int dilation) {
  return tile_columns + 2 + dilation * (parts.columns - 1);
}
// Of shared memory; the target's tile goes through it, too, and is never larger.
MFVIS_HOST_DEVICE int64_t box_bytes(WindowParts parts, int dilation) {
  return int64_t{channels_of_window * sizeof(float)} * source_rows(parts, dilation) * source_columns(parts, dilation);
}

// The largest parts that fit, of equal size and near to a square; a single candidate always fits.
inline WindowParts parts_of_window(int radius, int dilation) {
  const int side = 2 * radius + 1;
  WindowParts parts{side, side};
  for (int cut_y = 1, cut_x = 1; box_bytes(parts, dilation) > window_bytes;) {
    ++(source_rows(parts, dilation) < source_columns(parts, dilation) || parts.rows == 1 ? cut_x : cut_y);
    parts = {(side + cut_y - 1) / cut_y, (side + cut_x - 1) / cut_x};
  }
  return parts;
}

// One tile of a target frame, and the frame in which it is searched.
struct Window {
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

MFVIS_HOST_DEVICE int64_t tiles_down(int64_t height) { return (height + tile_rows - 1) / tile_rows; }
MFVIS_HOST_DEVICE int64_t tiles_across(int64_t width) { return (width + tile_columns - 1) / tile_columns; }

template <typename T>
__device__ void load_box_of(const T* frame, const Window& window, int first_y, int first_x, int rows, int columns,
                            float* box) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int line = warp; line < channels_of_window * rows; line += warps_of_window) {
    const int channel = line / rows, y = first_y + line % rows;
    const bool exists = y >= 0 && y < window.height;
    const T* const from = frame + (static_cast<int64_t>(channel) * window.height + y) * window.width;
    for (int column = lane; column < columns; column += 32) {
      const int x = first_x + column;
      const bool inside = exists && x >= 0 && x < window.width;
      box[line * columns + column] = inside ? static_cast<float>(load(from[x])) : 0.0f;
    }
  }
}

// The pixels from (first_y, first_x) on into shared memory, [3][rows][columns], zeros outside of the frame.
__device__ __forceinline__ void load_box(const void* frame, const Window& window, int first_y, int first_x, int rows,
                                         int columns, float* box) {
  __syncthreads();  // What the box held is not needed any more.
  switch (window.dtype) {
    case Dtype::f16:
      load_box_of(static_cast<const Half*>(frame), window, first_y, first_x, rows, columns, box);
      break;
    case Dtype::bf16:
      load_box_of(static_cast<const BFloat16*>(frame), window, first_y, first_x, rows, columns, box);
      break;
    case Dtype::f64:
      load_box_of(static_cast<const double*>(frame), window, first_y, first_x, rows, columns, box);
      break;
    default:
      load_box_of(static_cast<const float*>(frame), window, first_y, first_x, rows, columns, box);
  }
  __syncthreads();
}

// body(first_y, first_x, rows, columns, box_rows, box_columns) for each part of the window: the candidates
// first_y.. x first_x.. , counted from the window's corner, and their source pixels in shared memory.
template <typename Body>
__device__ __forceinline__ void for_each_part(const Window& window, float* box, const Body& body) {
  const int side = 2 * window.radius + 1;
  const int box_rows = source_rows(window.parts, window.dilation);
  const int box_columns = source_columns(window.parts, window.dilation);
  for (int first_y = 0; first_y < side; first_y += window.parts.rows) {
    for (int first_x = 0; first_x < side; first_x += window.parts.columns) {
      load_box(window.source, window, window.y - 1 + window.shift_y + window.dilation * (first_y - window.radius),
               window.x - 1 + window.shift_x + window.dilation * (first_x - window.radius), box_rows, box_columns, box);
      const int rows = side - first_y, columns = side - first_x;
      body(first_y, first_x, rows < window.parts.rows ? rows : window.parts.rows,
           columns < window.parts.columns ? columns : window.parts.columns, box_rows, box_columns);
    }
  }
}

// Any patch of any channels, tap by tap: the squared distance of those of side 2·h + 1 at (y, x) and (y + dy, x + dx).
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

// Sums over three rows, with the two in the middle of each pair of sums added once.
__device__ __forceinline__ void sum_rows(const float (&rows)[rows_of_lane + 2], float (&sums)[rows_of_lane]) {
#pragma unroll
  for (int r = 0; r < rows_of_lane; r += 2) {
    const float middle = rows[r + 1] + rows[r + 2];
    sums[r] = rows[r] + middle;
    sums[r + 1] = middle + rows[r + 3];
  }
}

// And over the lanes on both sides; what lanes 0 and 31 get is not a patch.
__device__ __forceinline__ float sum_lanes(float column) {
  return __shfl_up_sync(whole_warp, column, 1) + column + __shfl_down_sync(whole_warp, column, 1);
}

// visit(r, index, squared) for the lane's pixel r (0..3, known at compile time) and every candidate: its window index
// and squared patch distance, +inf where the candidate's centre is not in the frame. Columns of candidates come from
// the middle outwards, each one downwards: not in the order of their indices. STACK = stacked(dilation).
template <int STACK, typename Visit>
__device__ __forceinline__ void for_each_candidate(const Window& window, const Visit& visit) {
  constexpr int halo = rows_of_lane + 2;
  float* const box = shared_memory<float>();
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * rows_of_lane, side = 2 * window.radius + 1;

  float target[channels_of_window][halo];
  load_box(window.target, window, window.y - 1, window.x - 1, tile_rows + 2, 32, box);
#pragma unroll
  for (int c = 0; c < channels_of_window; ++c) {
#pragma unroll
    for (int r = 0; r < halo; ++r) target[c][r] = box[(c * (tile_rows + 2) + row + r) * 32 + lane];
  }

  // Of the candidate at the window's corner, for the lane's first pixel.
  const int reach = window.radius * window.dilation;
  const int corner_y = window.y + row + window.shift_y - reach;
  const int corner_x = window.x - 1 + lane + window.shift_x - reach;
  const bool cropped = window.y + window.shift_y < reach || window.x + window.shift_x < reach ||
                       window.y + tile_rows - 1 + window.shift_y + reach >= window.height ||
                       window.x + tile_columns - 1 + window.shift_x + reach >= window.width;

  for_each_part(window, box, [&](int first_y, int first_x, int rows, int columns, int box_rows, int box_columns) {
    for (int i = 0; i < columns; ++i) {
      const int column = (columns - 1) / 2 + (i % 2 ? i / 2 + 1 : -(i / 2));
      const int centre_x = corner_x + window.dilation * (first_x + column);
      const bool column_exists = centre_x >= 0 && centre_x < window.width;
      const float* const source_column = box + row * box_columns + window.dilation * column + lane;
      for (int above = 0; above < rows; above += STACK) {
        float source[channels_of_window][halo + STACK - 1];
#pragma unroll
        for (int c = 0; c < channels_of_window; ++c) {
          const float* const from = source_column + (c * box_rows + window.dilation * above) * box_columns;
#pragma unroll
          for (int r = 0; r < halo + STACK - 1; ++r) source[c][r] = from[r * box_columns];
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
              const int centre_y = corner_y + r + window.dilation * candidate_row;
              if (!column_exists || centre_y < 0 || centre_y >= window.height) sums[r] = INFINITY;
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
