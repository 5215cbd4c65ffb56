// A pair's target frame is divided into bands of rows. A band keeps, per pixel, its k best candidates so far, sorted,
// and goes through the candidates in the order of their window indices:
//
//   squares   (rows + 2h) x (W + 2h)   squared color difference to the source displaced by the candidate
//   columns            1 x (W + 2h)    sums of the squares over patch_size rows
//   patches            1 x W           and over patch_size columns: the squared patch distance
//   best      k x rows x W             a new distance is inserted behind equal ones, without branches
//
// All of it stays in L1 and L2, every loop runs along a row and vectorizes, and the [S², H, W] volume never exists.
// Frames are padded with zeros by h = patch_size / 2 once, which suffices for candidates whose center is inside.
#include "../temporal_topk.h"

#include "../../common/parallel.h"
#include "../../common/scratch.h"
#include "../search_window.h"
#include "patch_sums.h"

namespace mfvis {
namespace {

constexpr int64_t band_rows = 8;

// Inserts candidate `index` with the distances `d` into the sorted lists best[0..k) of a row's pixels. Entries above d
// move back by one, from the last to the first. `<` keeps an equal one, whose index is smaller, in front.
template <int K>
void insert(const float* __restrict d, int32_t index, int64_t k, int64_t distance_step, int64_t index_step,
            int64_t size, float* best_distance, int32_t* best_index) {
  if (K > 0) {
#pragma omp simd
    for (int64_t x = 0; x < size; ++x) {
      const float candidate = d[x];
      float kept[K > 0 ? K : 1];
      int32_t kept_index[K > 0 ? K : 1];
      for (int j = 0; j < K; ++j) {
        kept[j] = best_distance[j * distance_step + x];
        kept_index[j] = best_index[j * index_step + x];
      }
      for (int j = K - 1; j > 0; --j) {
        const float moved = candidate < kept[j - 1] ? kept[j - 1] : candidate;
        const int32_t moved_index = candidate < kept[j - 1] ? kept_index[j - 1] : index;
        best_distance[j * distance_step + x] = candidate < kept[j] ? moved : kept[j];
        best_index[j * index_step + x] = candidate < kept[j] ? moved_index : kept_index[j];
      }
      best_distance[x] = candidate < kept[0] ? candidate : kept[0];
      best_index[x] = candidate < kept[0] ? index : kept_index[0];
    }
    return;
  }
  for (int64_t j = k - 1; j >= 0; --j) {
    float* distance = best_distance + j * distance_step;
    int32_t* indices = best_index + j * index_step;
    // The first entry has no predecessor: as if one were nearer than any candidate.
    const float* before = j > 0 ? distance - distance_step : d;
    const int32_t* before_index = j > 0 ? indices - index_step : indices;
#pragma omp simd
    for (int64_t x = 0; x < size; ++x) {
      const bool moves = d[x] < before[x];
      const float moved = moves ? before[x] : d[x];
      const int32_t moved_index = moves ? before_index[x] : index;
      indices[x] = d[x] < distance[x] ? moved_index : indices[x];
      distance[x] = d[x] < distance[x] ? moved : distance[x];
    }
  }
}

using Insert = void(const float*, int32_t, int64_t, int64_t, int64_t, int64_t, float*, int32_t*);

Insert* insert_of(int64_t k) {
  constexpr Insert* unrolled[] = {insert<0>, insert<1>, insert<2>, insert<3>, insert<4>,
                                  insert<5>, insert<6>, insert<7>, insert<8>, insert<9>};
  return unrolled[k < 10 ? k : 0];
}

// The working memory of one thread.
struct Rows {
  explicit Rows(const TemporalTopk& args)
      : squares((band_rows + args.patch_size - 1) * (args.width + args.patch_size - 1)),
        columns(args.width + args.patch_size - 1),
        patches(args.width),
        best_index(args.k * band_rows * args.width) {}

  Scratch<float> squares, columns, patches;
  Scratch<int32_t> best_index;
};

void match_band(const TemporalTopk& args, int64_t video, int64_t pair, int64_t first_row, const Rows& rows) {
  const int64_t height = args.height, width = args.width, k = args.k, taps = args.patch_size;
  const int64_t stride = width + taps - 1, plane = (height + taps - 1) * stride;
  const int64_t end_row = min(first_row + band_rows, height), area = height * width;
  const float* frames = args.padded + video * args.frame_count * args.channels * plane;
  const float* target = frames + args.pairs[2 * pair] * args.channels * plane;
  const float* source = frames + args.pairs[2 * pair + 1] * args.channels * plane;
  const int64_t item = video * args.pair_count + pair;
  const int64_t reach = args.radius * args.dilation;
  const int64_t shift_y = args.shift ? clamp_shift(args.shift[2 * item], height, reach) : 0;
  const int64_t shift_x = args.shift ? clamp_shift(args.shift[2 * item + 1], width, reach) : 0;
  // The output itself holds the distances, squared until the end.
  float* distance = args.distance + item * k * area + first_row * width;
  int16_t* offset = args.offset + item * k * area + first_row * width;
  const int64_t band = (end_row - first_row) * width, index_step = band_rows * width;
  Square<float>* const squared_difference = square_of<float>(args.channels);
  Sum<float>* const sum = sum_over<float>(taps);
  Insert* const insert = insert_of(k);

  for (int64_t j = 0; j < k; ++j) {
    for (int64_t x = 0; x < band; ++x) distance[j * area + x] = __builtin_inff();
    for (int64_t x = 0; x < band; ++x) rows.best_index[j * index_step + x] = -1;
  }
  int32_t index = 0;
  for (int64_t step_y = -args.radius; step_y <= args.radius; ++step_y) {
    const int64_t dy = shift_y + args.dilation * step_y;
    const int64_t y_begin = max(first_row, -dy), y_end = min(end_row, height - dy);
    for (int64_t step_x = -args.radius; step_x <= args.radius; ++step_x, ++index) {
      const int64_t dx = shift_x + args.dilation * step_x;
      const int64_t x_begin = max<int64_t>(0, -dx), size = min(width, width - dx) - x_begin;
      if (size <= 0) continue;
      for (int64_t y = y_begin; y < y_end + taps - 1 && y_begin < y_end; ++y) {
        const int64_t at = y * stride + x_begin;
        squared_difference(target + at, source + at + dy * stride + dx, plane, args.channels, size + taps - 1,
                           rows.squares + (y - y_begin) * stride);
      }
      for (int64_t y = y_begin; y < y_end; ++y) {
        const int64_t at = (y - first_row) * width + x_begin;
        sum(rows.squares + (y - y_begin) * stride, stride, taps, size + taps - 1, rows.columns);
        sum(rows.columns, 1, taps, size, rows.patches);
        insert(rows.patches, index, k, area, index_step, size, distance + at, rows.best_index + at);
      }
    }
  }
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t x = 0; x < band; ++x) distance[j * area + x] = __builtin_sqrtf(distance[j * area + x]);
    for (int64_t x = 0; x < band; ++x) {
      offset[j * area + x] = static_cast<int16_t>(rows.best_index[j * index_step + x]);
    }
  }
}

void temporal_topk(const TemporalTopk& args) {
  with_floating_type(args.dtype, [&](auto element) {
    pad(static_cast<const decltype(element)*>(args.frames), args.videos * args.frame_count * args.channels, args.height,
        args.width, args.patch_size / 2, args.padded);
  });
  const int64_t bands = ceil_div(args.height, band_rows);
  parallel_for(args.videos * args.pair_count * bands, 1, [&](int64_t begin, int64_t end) {
    const Rows rows(args);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t pair = item / bands;
      match_band(args, pair / args.pair_count, pair % args.pair_count, item % bands * band_rows, rows);
    }
  });
}

MFVIS_CPU_KERNEL(temporal_topk_kernel, temporal_topk)

}  // namespace
}  // namespace mfvis
