// A pair's target frame is divided into tiles of 8 rows and up to 256 columns. A tile keeps, per pixel, its k best
// candidates so far, sorted, and goes through the rows of the window from the middle outward, a group of neighboring
// candidates at a time:
//
//   line       C x (columns + group)          the row of the source that the group needs, infinite outside of the frame
//   squares    patch_size x group x columns   squared color difference to the source: a ring of rows
//   sums       group x columns                sums of the squares over patch_size rows
//   distances  group x columns                and over patch_size columns: the squared patch distance
//   best       8 x k x columns                distance and index, sorted by both
//
// All of it stays in L1 and L2, every loop runs along a row and vectorizes, and the [S², H, W] volume never exists.
// One comparison of a vector of distances with the worst ones kept rejects most candidates of a video whose motion is
// small, because the search starts in the middle. Ties go to the smaller index.
// Frames are padded with zeros by h = patch_size / 2 once. A candidate whose center is outside of the frame has a patch
// that reaches beyond those zeros, so its distance is infinite.
#include "../temporal_topk.h"

#include "../../common/nontemporal.h"
#include "../../common/parallel.h"
#include "../../common/scratch.h"
#include "../../common/vector.h"
#include "../search_window.h"
#include "patch_sums.h"

namespace mfvis {
namespace {

constexpr int64_t tile_rows = 8, tile_columns = 256;
constexpr int64_t max_group = 12, max_group_span = 64;  // candidates, pixels
constexpr int64_t vector_size = Vector<float>::size;
constexpr float infinity = __builtin_inff(), not_a_number = __builtin_nanf("");

// The sorted lists of the k best candidates of a vector of pixels.
struct Best {
  float* distance;  // [k][step]
  int32_t* index;
  int64_t step;
};

// Inserts candidate `index` with the distances `d`. Entries behind it move back by one, from the last to the first. Its
// index is smaller than all that are in the lists (FIRST), or greater, so it goes before equal distances or behind
// them. An infinite distance is never inserted: it becomes NaN, which is neither less nor equal.
template <int K, bool FIRST>
void insert(const float* d, int32_t index, int64_t k, const Best& best) {
  const auto is_before = [](float candidate, float kept) { return FIRST ? candidate <= kept : candidate < kept; };
  if (K > 0) {
#pragma omp simd
    for (int64_t x = 0; x < vector_size; ++x) {
      const float candidate = FIRST && d[x] == infinity ? not_a_number : d[x];
      float kept[K > 0 ? K : 1];
      int32_t kept_index[K > 0 ? K : 1];
      for (int j = 0; j < K; ++j) {
        kept[j] = best.distance[j * best.step + x];
        kept_index[j] = best.index[j * best.step + x];
      }
      for (int j = K - 1; j > 0; --j) {
        const float moved = is_before(candidate, kept[j - 1]) ? kept[j - 1] : candidate;
        const int32_t moved_index = is_before(candidate, kept[j - 1]) ? kept_index[j - 1] : index;
        best.distance[j * best.step + x] = is_before(candidate, kept[j]) ? moved : kept[j];
        best.index[j * best.step + x] = is_before(candidate, kept[j]) ? moved_index : kept_index[j];
      }
      best.distance[x] = is_before(candidate, kept[0]) ? candidate : kept[0];
      best.index[x] = is_before(candidate, kept[0]) ? index : kept_index[0];
    }
    return;
  }
  for (int64_t j = k - 1; j >= 0; --j) {
    float* const distance = best.distance + j * best.step;
    int32_t* const indices = best.index + j * best.step;
    const int64_t previous = j > 0 ? best.step : 0;
#pragma omp simd
    for (int64_t x = 0; x < vector_size; ++x) {
      const float candidate = FIRST && d[x] == infinity ? not_a_number : d[x];
      const bool before = is_before(candidate, distance[x]);
      const bool moves = (previous > 0) & is_before(candidate, distance[x - previous]);
      const float moved = moves ? distance[x - previous] : candidate;
      const int32_t moved_index = moves ? indices[x - previous] : index;
      distance[x] = before ? moved : distance[x];
      indices[x] = before ? moved_index : indices[x];
    }
  }
}

// Inserts `count` candidates, from index `first` on, with the distances [count, stride], into the lists of a row.
template <int K, bool FIRST>
void insert_group(const float* distances, int64_t stride, int32_t first, int64_t count, int64_t k, int64_t columns,
                  const Best& row) {
  for (int64_t x = 0; x < columns; x += vector_size) {
    const Best best{row.distance + x, row.index + x, row.step};
    const float* const worst = best.distance + (k - 1) * best.step;
    for (int64_t n = 0; n < count; ++n) {
      const int64_t i = FIRST ? count - 1 - n : n;
      const float* const d = distances + i * stride + x;
      if (FIRST ? any_up_to(d, worst) : any_below(d, worst)) {
        insert<K, FIRST>(d, first + static_cast<int32_t>(i), k, best);
      }
    }
  }
}

using InsertGroup = void(const float*, int64_t, int32_t, int64_t, int64_t, int64_t, const Best&);

template <bool FIRST>
InsertGroup* insert_group_of(int64_t k) {
  constexpr InsertGroup* unrolled[] = {insert_group<0, FIRST>, insert_group<1, FIRST>, insert_group<2, FIRST>,
                                       insert_group<3, FIRST>, insert_group<4, FIRST>, insert_group<5, FIRST>,
                                       insert_group<6, FIRST>, insert_group<7, FIRST>, insert_group<8, FIRST>,
                                       insert_group<9, FIRST>};
  return unrolled[k < 10 ? k : 0];
}

// Memory of a thread, in whole cache lines.
template <typename T>
struct Rows {
  explicit Rows(int64_t size) : memory(Scratch<T>::unset(size + 16)), data(align_to_cache_line<T>(memory)) {}
  Scratch<T> memory;
  T* data;
};

struct Workspace {
  explicit Workspace(const TemporalTopk& args)
      : taps(args.patch_size),
        side(2 * args.radius + 1),
        kept(min(args.k, side * side)),
        group(min(min(side, max_group), 1 + max_group_span / args.dilation)),
        stride(round_up_to_lanes(min(args.width, tile_columns) + taps - 1) + round_up_to_lanes(taps)),
        line_stride(stride + round_up_to_lanes((group - 1) * args.dilation)),
        line(args.channels * line_stride),
        squares(taps * group * stride),
        sums(group * stride),
        distances(group * stride),
        best_distance(tile_rows * kept * stride),
        best_index(tile_rows * kept * stride) {}

  int64_t taps, side, kept, group, stride, line_stride;
  Rows<float> line, squares, sums, distances, best_distance;
  Rows<int32_t> best_index;
};

// sums[x]: over the rows of a ring, from the oldest to the newest. TAPS = 0: any number.
template <int TAPS>
void sum_ring(const float* ring, int64_t step, int64_t oldest, int64_t taps, int64_t size, float* __restrict sums) {
  if (TAPS == 3) {
    const float* const a = ring + oldest * step;
    const float* const b = ring + (oldest + 1) % 3 * step;
    const float* const c = ring + (oldest + 2) % 3 * step;
    for (int64_t x = 0; x < size; ++x) sums[x] = a[x] + b[x] + c[x];
    return;
  }
  for (int64_t j = 0; j < taps; ++j) {
    const float* const row = ring + (oldest + j) % taps * step;
    for (int64_t x = 0; x < size; ++x) sums[x] = j == 0 ? row[x] : sums[x] + row[x];
  }
}

// The tile's pixels, and the frames of its pair.
struct Tile {
  Tile(const TemporalTopk& args, int64_t item, int64_t tile) {
    const int64_t across = ceil_div(args.width, tile_columns), video = item / args.pair_count;
    const int64_t pair = item % args.pair_count, reach = args.radius * args.dilation;
    top = tile / across * tile_rows;
    left = tile % across * tile_columns;
    bottom = min(top + tile_rows, args.height);
    right = min(left + tile_columns, args.width);
    stride = temporal_topk_stride(args.width, args.patch_size);
    plane = (args.height + args.patch_size - 1) * stride;
    const float* const frames = args.padded + video * args.frame_count * args.channels * plane;
    target = frames + args.pairs[2 * pair] * args.channels * plane;
    source = frames + args.pairs[2 * pair + 1] * args.channels * plane;
    shift_y = args.shift ? clamp_shift(args.shift[2 * item], args.height, reach) : 0;
    shift_x = args.shift ? clamp_shift(args.shift[2 * item + 1], args.width, reach) : 0;
  }

  int64_t top, left, bottom, right, stride, plane, shift_y, shift_x;
  const float *target, *source;
};

// Copies columns [from, from + size) of a padded row, infinite outside of the padded frame.
void copy_line(const float* row, int64_t padded_width, int64_t from, int64_t size, float* line) {
  const int64_t begin = min(max<int64_t>(0, -from), size), end = max(begin, min(size, padded_width - from));
  for (int64_t x = 0; x < begin; ++x) line[x] = infinity;
  for (int64_t x = begin; x < end; ++x) line[x] = row[from + x];
  for (int64_t x = end; x < size; ++x) line[x] = infinity;
}

// Matches a tile with `count` candidates: dx, dx + dilation, ... in a row dy below.
void match_group(const TemporalTopk& args, const Tile& tile, const Workspace& work, int64_t dy, int64_t dx,
                 int32_t first, int64_t count, InsertGroup* insert_group) {
  const int64_t taps = work.taps, y_begin = max(tile.top, -dy), y_end = min(tile.bottom, args.height - dy);
  const int64_t last_dx = dx + (count - 1) * args.dilation;
  if (y_begin >= y_end || tile.left + dx >= args.width || tile.right + last_dx <= 0) return;
  Square<float>* const squared_difference = square_of<float>(args.channels);
  Sum<float>* const sum = sum_over<float>(taps);
  const int64_t size = round_up_to_lanes(tile.right - tile.left + taps - 1);
  const int64_t columns = round_up_to_lanes(tile.right - tile.left), ring = work.group * work.stride;
  for (int64_t y = y_begin; y < y_end + taps - 1; ++y) {
    for (int64_t c = 0; c < args.channels; ++c) {
      copy_line(tile.source + c * tile.plane + (y + dy) * tile.stride, args.width + taps - 1, tile.left + dx,
                size + last_dx - dx, work.line.data + c * work.line_stride);
    }
    const int64_t slot = (y - y_begin) % taps;
    for (int64_t i = 0; i < count; ++i) {
      squared_difference(tile.target + y * tile.stride + tile.left, tile.plane, work.line.data + i * args.dilation,
                         work.line_stride, args.channels, size, work.squares.data + slot * ring + i * work.stride);
    }
    if (y - y_begin < taps - 1) continue;
    for (int64_t i = 0; i < count; ++i) {
      (taps == 3 ? sum_ring<3> : sum_ring<0>)(work.squares.data + i * work.stride, ring, (slot + 1) % taps, taps, size,
                                              work.sums.data + i * work.stride);
      sum(work.sums.data + i * work.stride, 1, taps, columns, work.distances.data + i * work.stride);
    }
    const int64_t row = (y - (taps - 1) - tile.top) * work.kept * work.stride;
    insert_group(work.distances.data, work.stride, first, count, work.kept, columns,
                 {work.best_distance.data + row, work.best_index.data + row, work.stride});
  }
}

void match_tile(const TemporalTopk& args, int64_t item, const Tile& tile, const Workspace& work) {
  const int64_t columns = tile.right - tile.left, padded_columns = round_up_to_lanes(columns);
  // Nothing is nearer than minus infinity: columns outside of the tile insert nothing.
  for (int64_t row = 0; row < tile_rows * work.kept; ++row) {
    float* const distance = work.best_distance.data + row * work.stride;
    for (int64_t x = 0; x < padded_columns; ++x) distance[x] = x < columns ? infinity : -infinity;
    for (int64_t x = 0; x < padded_columns; ++x) work.best_index.data[row * work.stride + x] = -1;
  }
  // A row above the ones before it has smaller indices. Its candidates go from the last to the first, so that every one
  // has a smaller index than those that are in the lists.
  const int64_t groups = ceil_div(work.side, work.group);
  for (int64_t i = 0; i < work.side; ++i) {
    const bool above = i % 2 != 0;
    const int64_t step_y = above ? -(i + 1) / 2 : i / 2, dy = tile.shift_y + args.dilation * step_y;
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t first = (above ? groups - 1 - group : group) * work.group;
      const int64_t dx = tile.shift_x + args.dilation * (first - args.radius);
      match_group(args, tile, work, dy, dx, static_cast<int32_t>((step_y + args.radius) * work.side + first),
                  min(work.group, work.side - first),
                  above ? insert_group_of<true>(work.kept) : insert_group_of<false>(work.kept));
    }
  }
  const int64_t area = args.height * args.width;
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    for (int64_t j = 0; j < args.k; ++j) {
      const int64_t to = (item * args.k + j) * area + y * args.width + tile.left;
      const int64_t from = ((y - tile.top) * work.kept + min(j, work.kept - 1)) * work.stride;
      const float* const distance = work.best_distance.data + from;
      const int32_t* const index = work.best_index.data + from;
      const bool exists = j < work.kept;
      for (int64_t x = 0; x < columns; ++x) args.distance[to + x] = exists ? __builtin_sqrtf(distance[x]) : infinity;
      for (int64_t x = 0; x < columns; ++x) args.offset[to + x] = static_cast<int16_t>(exists ? index[x] : -1);
    }
  }
}

void temporal_topk(const TemporalTopk& args) {
  with_floating_type(args.dtype, [&](auto element) {
    pad(static_cast<const decltype(element)*>(args.frames), args.videos * args.frame_count * args.channels, args.height,
        args.width, args.patch_size / 2, temporal_topk_stride(args.width, args.patch_size), args.padded);
  });
  const int64_t tiles = ceil_div(args.height, tile_rows) * ceil_div(args.width, tile_columns);
  parallel_for(args.videos * args.pair_count * tiles, 1, [&](int64_t begin, int64_t end) {
    const Workspace work(args);
    for (int64_t item = begin; item < end; ++item) {
      match_tile(args, item / tiles, Tile(args, item / tiles, item % tiles), work);
    }
  });
}

MFVIS_CPU_KERNEL(temporal_topk_kernel, temporal_topk)

}  // namespace
}  // namespace mfvis
