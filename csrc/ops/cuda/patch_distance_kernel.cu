// Forward: for 3x3 patches of three channels a block moves a tile of the target through the window (window.cuh) and
// writes a row of 30 distances per warp, pixel row and candidate. Floor: this volume, 4 bytes per pixel and candidate.
//
// Backward: a gather, one frame at a time, in the same tiles. Each lane keeps the gradients of its 4 pixels:
//
//   ratios   [6]     grad / distance at the centers in its column, 0 where the distance is 0 or infinite
//   weights  [4]     their sums over 3 rows and 3 lanes: the weight of a pixel over the 9 patches that contain it
//   sums     [3][4]  += weight · (self - other), with the other frame's pixels from shared memory
//
// With a displacement δ, pixel u of the target lies in patches around q = u and is compared with u + δ of the source; u
// of the source lies in those around q = u - δ and is compared with u - δ of the target. So for the source the window
// is traversed with -δ: backwards, and the centers move along. Floor: the gradients and the distances, 8 bytes per
// pixel and candidate for each frame. No atomics; every sum has a fixed order.
#include "../patch_distance.h"
#include "window.cuh"

namespace mfvis {
namespace {

constexpr int threads = 128;
constexpr int channels_of_thread = 8;

// The first pixel of a tile, and its batch item.
struct Tile {
  int64_t item;
  int y;
  int x;
};

__device__ Tile tile_of(const PatchDistance& args, int64_t tile) {
  const int64_t down = tiles_down(args.height), across = tiles_across(args.width);
  return {tile / (down * across), static_cast<int>(tile / across % down) * tile_rows,
          static_cast<int>(tile % across) * tile_columns};
}

int64_t tiles_of(const PatchDistance& args) { return args.batch * tiles_down(args.height) * tiles_across(args.width); }

__device__ TileWindow window_of(const PatchDistance& args, const Tile& tile, const void* target, const void* source,
                                int element_size, WindowParts parts) {
  const int64_t frame = tile.item * channels_of_window * args.height * args.width * element_size;
  return {static_cast<const char*>(target) + frame,
          static_cast<const char*>(source) + frame,
          args.dtype,
          static_cast<int>(args.height),
          static_cast<int>(args.width),
          tile.y,
          tile.x,
          0,
          0,
          static_cast<int>(args.radius),
          static_cast<int>(args.dilation),
          parts};
}

template <int STACK>
__global__ void __launch_bounds__(threads_of_window, 4)
    distances_of_tiles(PatchDistance args, WindowParts parts, int element_size, float* distance) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * rows_of_lane,
            side = 2 * static_cast<int>(args.radius) + 1;
  const int64_t area = args.height * args.width,
                tiles = args.batch * tiles_down(args.height) * tiles_across(args.width);
  for (int64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    const Tile tile = tile_of(args, i);
    const TileWindow window = window_of(args, tile, args.target, args.source, element_size, parts);
    const int first_y = tile.y + row, x = tile.x - 1 + lane;
    const bool has_pixels = lane > 0 && lane < 31 && x < args.width;
    float* const to = distance + tile.item * side * side * area + first_y * args.width + x;
    for_each_candidate<STACK>(window, [&](int r, int index, float squared) {
      if (has_pixels && first_y + r < args.height) to[index * area + r * args.width] = sqrtf(squared);
    });
  }
}

// grad / distance of a candidate at center (y, x), 0 where it is not differentiable. at: the candidate's plane.
template <typename Real>
__device__ Real ratio_of(const Real* grad_distance, const Real* distance, int64_t at, int64_t height, int64_t width,
                         int64_t y, int64_t x) {
  if (y < 0 || y >= height || x < 0 || x >= width) return 0;
  const Real d = distance[at + y * width + x];
  return d > 0 && d < static_cast<Real>(INFINITY) ? grad_distance[at + y * width + x] / d : 0;
}

template <typename T, bool OF_SOURCE>
__global__ void __launch_bounds__(threads_of_window, 4)
    gradients_of_tiles(PatchDistance args, WindowParts parts, const float* grad_distance, const float* distance,
                       T* grad) {
  float* const box = shared_memory<float>();
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * rows_of_lane,
            side = 2 * static_cast<int>(args.radius) + 1;
  const int64_t area = args.height * args.width,
                tiles = args.batch * tiles_down(args.height) * tiles_across(args.width);
  const int height = static_cast<int>(args.height), width = static_cast<int>(args.width);
  for (int64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    const Tile tile = tile_of(args, i);
    const TileWindow window = window_of(args, tile, OF_SOURCE ? args.source : args.target,
                                        OF_SOURCE ? args.target : args.source, sizeof(T), parts);
    const int first_y = tile.y + row, x = tile.x - 1 + lane;

    float self[channels_of_window][rows_of_lane], sums[channels_of_window][rows_of_lane];
    load_column(window, first_y, x, self);
#pragma unroll
    for (int c = 0; c < channels_of_window; ++c) {
#pragma unroll
      for (int r = 0; r < rows_of_lane; ++r) sums[c][r] = 0;
    }
    for_each_part(window, box, [&](int part_y, int part_x, int rows, int columns) {
      const auto add_candidate = [&](int down, int across) {
        const int forward = (part_y + down) * side + part_x + across;
        const int64_t at = (tile.item * side * side + (OF_SOURCE ? side * side - 1 - forward : forward)) * area;
        const int center_y = first_y - 1 + (OF_SOURCE ? window.dilation * (part_y + down - window.radius) : 0);
        const int center_x = x + (OF_SOURCE ? window.dilation * (part_x + across - window.radius) : 0);
        float ratios[rows_of_lane + 2], weights[rows_of_lane];
#pragma unroll
        for (int r = 0; r < rows_of_lane + 2; ++r) {
          ratios[r] = ratio_of(grad_distance, distance, at, height, width, center_y + r, center_x);
        }
        sum_rows(ratios, weights);
#pragma unroll
        for (int r = 0; r < rows_of_lane; ++r) weights[r] = sum_lanes(weights[r]);
        const float* const other = box + (row + 1 + window.dilation * down) * box_row + window.dilation * across + lane;
#pragma unroll
        for (int c = 0; c < channels_of_window; ++c) {
#pragma unroll
          for (int r = 0; r < rows_of_lane; ++r) {
            sums[c][r] += weights[r] * (self[c][r] - other[r * box_row + c * box_columns]);
          }
        }
      };
      for (int down = 0; down < rows; ++down) {
        for (int across = 0; across < columns; ++across) add_candidate(down, across);
      }
    });
    if (lane == 0 || lane == 31 || x >= width) continue;
    T* const to = grad + tile.item * channels_of_window * area;
#pragma unroll
    for (int c = 0; c < channels_of_window; ++c) {
#pragma unroll
      for (int r = 0; r < rows_of_lane; ++r) {
        if (first_y + r < height) store(sums[c][r], to + c * area + static_cast<int64_t>(first_y + r) * width + x);
      }
    }
  }
}

// Any patch size and number of channels: one thread per distance, over all taps of its patches.
template <typename T>
__global__ void __launch_bounds__(threads, 4) distances_of_pixels(PatchDistance args, Compute<T>* distance) {
  const int64_t height = args.height, width = args.width, area = height * width, side = 2 * args.radius + 1;
  const int64_t count = args.batch * side * side * area, frame = args.channels * area;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; at < count;
       at += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t item = at / (side * side * area), index = at / area % (side * side);
    const int64_t y = at % area / width, x = at % width;
    const int64_t dy = args.dilation * (index / side - args.radius), dx = args.dilation * (index % side - args.radius);
    const bool exists = y + dy >= 0 && y + dy < height && x + dx >= 0 && x + dx < width;
    distance[at] =
        exists
            ? sqrt(squared_patch_distance<Compute<T>>(static_cast<const T*>(args.target) + item * frame,
                                                      static_cast<const T*>(args.source) + item * frame, args.channels,
                                                      height, width, args.patch_size / 2, y, x, dy, dx))
            : static_cast<Compute<T>>(INFINITY);
  }
}

// One thread per pixel and up to eight channels. For each candidate it visits the patches that contain the pixel.
template <typename T>
__global__ void __launch_bounds__(threads, 4) gradients_of_pixels(PatchDistance args, const Compute<T>* grad_distance,
                                                                  const Compute<T>* distance, bool of_source, T* grad) {
  using Real = Compute<T>;
  const int64_t height = args.height, width = args.width, area = height * width, side = 2 * args.radius + 1;
  const int64_t h = args.patch_size / 2, groups = ceil_div(args.channels, channels_of_thread);
  const int64_t count = args.batch * groups * area;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; at < count;
       at += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t item = at / (groups * area), first_channel = at / area % groups * channels_of_thread;
    const int64_t y = at % area / width, x = at % width, pixel = (item * args.channels + first_channel) * area;
    const T* const self = static_cast<const T*>(of_source ? args.source : args.target) + pixel + y * width + x;
    const T* const other = static_cast<const T*>(of_source ? args.target : args.source) + pixel;
    const int64_t channels = args.channels - first_channel;
    Real sums[channels_of_thread] = {};
    for (int64_t index = 0; index < side * side; ++index) {
      const int64_t dy = args.dilation * (index / side - args.radius);
      const int64_t dx = args.dilation * (index % side - args.radius);
      const int64_t other_y = of_source ? y - dy : y + dy, other_x = of_source ? x - dx : x + dx;
      const int64_t center_y = of_source ? other_y : y, center_x = of_source ? other_x : x;
      const bool exists = other_y >= 0 && other_y < height && other_x >= 0 && other_x < width;
      Real weight = 0;
      for (int64_t i = center_y - h; i <= center_y + h; ++i) {
        for (int64_t j = center_x - h; j <= center_x + h; ++j) {
          weight += ratio_of(grad_distance, distance, (item * side * side + index) * area, height, width, i, j);
        }
      }
#pragma unroll
      for (int c = 0; c < channels_of_thread; ++c) {
        if (c >= channels) break;
        const Real there = exists ? load(other[c * area + other_y * width + other_x]) : Real(0);
        sums[c] += weight * (load(self[c * area]) - there);
      }
    }
#pragma unroll
    for (int c = 0; c < channels_of_thread; ++c) {
      if (c < channels) store(sums[c], grad + pixel + c * area + y * width + x);
    }
  }
}

bool fits_tiles(const PatchDistance& args) {
  return args.patch_size == 3 && args.channels == channels_of_window && args.dtype != Dtype::f64 &&
         args.height < longest_side && args.width < longest_side;
}

void patch_distance(const PatchDistance& args, void* distance) {
  const int radius = static_cast<int>(args.radius), dilation = static_cast<int>(args.dilation);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    if (fits_tiles(args)) {
      const WindowParts parts = parts_of_window(radius, dilation);
      const int element_size = sizeof(T);
      launch("patch_distance", stacked(dilation) == 4 ? distances_of_tiles<4> : distances_of_tiles<1>,
             grid_for(tiles_of(args), 1), threads_of_window, box_bytes(parts, dilation), args, parts, element_size,
             static_cast<float*>(distance));
      return;
    }
    const int64_t count = args.batch * (2 * radius + 1) * (2 * radius + 1) * args.height * args.width;
    launch("patch_distance", distances_of_pixels<T>, grid_for(count, threads), threads, 0, args,
           static_cast<Compute<T>*>(distance));
  });
}

void patch_distance_backward(const PatchDistance& args, const void* grad_distance, const void* distance, bool of_source,
                             void* grad) {
  const int radius = static_cast<int>(args.radius), dilation = static_cast<int>(args.dilation);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    if (fits_tiles(args)) {
      if constexpr (sizeof(T) < sizeof(double)) {
        const WindowParts parts = parts_of_window(radius, dilation);
        launch("patch_distance_backward", of_source ? gradients_of_tiles<T, true> : gradients_of_tiles<T, false>,
               grid_for(tiles_of(args), 1), threads_of_window, box_bytes(parts, dilation), args, parts,
               static_cast<const float*>(grad_distance), static_cast<const float*>(distance), static_cast<T*>(grad));
      }
      return;
    }
    const int64_t groups = ceil_div(args.channels, channels_of_thread);
    launch("patch_distance_backward", gradients_of_pixels<T>,
           grid_for(args.batch * groups * args.height * args.width, threads), threads, 0, args,
           static_cast<const Compute<T>*>(grad_distance), static_cast<const Compute<T>*>(distance), of_source,
           static_cast<T*>(grad));
  });
}

MFVIS_CUDA_KERNEL(patch_distance_kernel, patch_distance)
MFVIS_CUDA_KERNEL(patch_distance_backward_kernel, patch_distance_backward)

}  // namespace
}  // namespace mfvis
