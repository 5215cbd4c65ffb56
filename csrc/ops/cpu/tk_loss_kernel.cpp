// Most of the k nearest patches of a pixel are too far to weigh anything, and all instances and decoder layers of a
// video share the rest. So the matches of a pair of frames are read once, row by row, and those with a weight are
// listed:
//
//   start    H x (W + 1)     where the matches of a pixel begin in its row's part of the lists
//   target   H x W·K         the pixel itself, an index into the plane; a row's part is filled from its front only
//   source   H x W·K         its match, an index into the other plane
//   weight   H x W·K
//
// Then each instance visits only the pixels that count for it: per row the union of its boxes' columns, as a few spans,
// a span of pixels being a range of the lists. Its matches are collected in batches over which the formulas run as
// whole vectors. Every instance and pair has its own sums, and every instance its own gradient, written by one thread
// in a fixed order: no atomics, and the same bits for any number of threads.
#include "../tk_loss.h"

#include "../../common/box.h"
#include "../../common/math.h"
#include "../../common/parallel.h"
#include "../../common/scratch.h"

namespace mfvis {
namespace {

// The pixels of an instance that count, row by row.
class CountedRows {
 public:
  CountedRows(const float* boxes, int64_t frames, int64_t height, int64_t width)
      : frames_(frames), rows_(frames), columns_(frames), spans_(frames) {
    for (int64_t t = 0; t < frames; ++t) {
      const float* box = boxes + 4 * t;
      const bool present = box_is_present(box);
      rows_[t] = present ? pixels_inside(box[1], box[3], height) : Span{0, 0};
      columns_[t] = present ? pixels_inside(box[0], box[2], width) : Span{0, 0};
    }
  }

  // Fills spans() with the union of the boxes' columns in row y, disjoint and in order; returns how many there are.
  int64_t find(int64_t y) {
    int64_t count = 0;
    for (int64_t t = 0; t < frames_; ++t) {
      const Span rows = rows_[t], columns = columns_[t];
      if (y < rows.begin || y >= rows.end || columns.begin >= columns.end) continue;
      int64_t at = count++;
      for (; at > 0 && spans_[at - 1].begin > columns.begin; --at) spans_[at] = spans_[at - 1];
      spans_[at] = columns;
    }
    int64_t merged = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (merged > 0 && spans_[i].begin <= spans_[merged - 1].end) {
        if (spans_[i].end > spans_[merged - 1].end) spans_[merged - 1].end = spans_[i].end;
      } else {
        spans_[merged++] = spans_[i];
      }
    }
    return merged;
  }
  const Span& operator[](int64_t i) const { return spans_[i]; }

 private:
  int64_t frames_;
  Scratch<Span> rows_, columns_, spans_;
};

int32_t clamp_shift(int64_t shift) {
  constexpr int64_t far = 1 << 28;
  return static_cast<int32_t>(shift < -far ? -far : shift > far ? far : shift);
}

// Where the matches of one pair lie.
struct Window {
  Window(const TkLoss& args, int64_t video, int64_t pair)
      : height(static_cast<int32_t>(args.height)),
        width(static_cast<int32_t>(args.width)),
        side(static_cast<int32_t>(2 * args.radius + 1)),
        dilation(static_cast<int32_t>(args.dilation)) {
    const int64_t* shift = args.shift ? args.shift + 2 * (video * args.pair_count + pair) : nullptr;
    const int32_t reach = static_cast<int32_t>(args.radius) * dilation;
    first_dy = (shift ? clamp_shift(shift[0]) : 0) - reach;
    first_dx = (shift ? clamp_shift(shift[1]) : 0) - reach;
  }

  // For the pixels x, x + 1, ... of row y: the index of the match in the source plane, and its weight, 0 where there is
  // no match.
  void read(const int16_t* offset, const float* weight, int64_t y, int64_t x, int64_t size, int32_t* __restrict index,
            float* __restrict kept) const {
    const float per_row = 1.0f / static_cast<float>(side);
    const int32_t y0 = static_cast<int32_t>(y) + first_dy, x0 = static_cast<int32_t>(x) + first_dx;
#pragma omp simd
    for (int32_t i = 0; i < static_cast<int32_t>(size); ++i) {
      const int32_t candidate = offset[i];
      const int32_t row = static_cast<int32_t>((static_cast<float>(candidate) + 0.5f) * per_row);
      const int32_t source_y = y0 + dilation * row;
      const int32_t source_x = x0 + i + dilation * (candidate - row * side);
      const bool exists = (candidate >= 0) & (candidate < side * side) & (source_y >= 0) & (source_y < height) &
                          (source_x >= 0) & (source_x < width);
      index[i] = source_y * width + source_x;
      kept[i] = exists ? weight[i] : 0.0f;
    }
  }

  int32_t height, width, side, dilation;
  int32_t first_dy, first_dx;
};

// The instances of one video, and the smallest rectangle around all their boxes.
struct Group {
  Group(const TkLoss& args, int64_t video) : instances(args.instances), rows{args.height, 0}, columns{args.width, 0} {
    for (int64_t n = 0; n < args.instances; ++n) {
      if (args.video_index[n] != video) continue;
      instances[size++] = n;
      for (int64_t t = 0; t < args.frames; ++t) {
        const float* box = args.boxes + (n * args.frames + t) * 4;
        if (!box_is_present(box)) continue;
        rows = around(rows, pixels_inside(box[1], box[3], args.height));
        columns = around(columns, pixels_inside(box[0], box[2], args.width));
      }
    }
  }

  bool is_empty() const { return size == 0 || rows.begin >= rows.end || columns.begin >= columns.end; }

  Scratch<int64_t> instances;
  int64_t size = 0;
  Span rows, columns;

 private:
  static Span around(Span a, Span b) { return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end}; }
};

// The matches of one pair of frames that weigh something, drawn above.
struct MatchList {
  MatchList(const TkLoss& args)
      : row_size(args.width * args.matches),
        start(args.height * (args.width + 1)),
        target(args.height * row_size),
        source(args.height * row_size),
        weight(args.height * row_size) {}

  void fill(const TkLoss& args, const Group& group, int64_t video, int64_t pair) const {
    const int64_t area = args.height * args.width, matches = args.matches;
    const int64_t x = group.columns.begin, size = group.columns.end - x;
    const Window window(args, video, pair);
    parallel_for(group.rows.end - group.rows.begin, 4, [&](int64_t begin, int64_t end) {
      const Scratch<int32_t> index(row_size);
      const Scratch<float> kept(row_size);
      for (int64_t y = group.rows.begin + begin; y < group.rows.begin + end; ++y) {
        const int64_t own = y * args.width + x;
        for (int64_t k = 0; k < matches; ++k) {
          const int64_t at = ((video * args.pair_count + pair) * matches + k) * area + own;
          window.read(args.offset + at, args.weight + at, y, x, size, index + k * size, kept + k * size);
        }
        int32_t* const __restrict starts = start + y * (args.width + 1) + x;
        int32_t* const __restrict targets = target + y * row_size;
        int32_t* const __restrict sources = source + y * row_size;
        float* const __restrict weights = weight + y * row_size;
        int32_t count = 0;
        for (int64_t i = 0; i < size; ++i) {
          starts[i] = count;
          for (int64_t k = 0; k < matches; ++k) {  // written in any case, kept only if it weighs something
            targets[count] = static_cast<int32_t>(own + i);
            sources[count] = index[k * size + i];
            weights[count] = kept[k * size + i];
            count += weights[count] != 0;
          }
        }
        starts[size] = count;
      }
    });
  }

  int64_t row_size;
  Scratch<int32_t> start, target, source;
  Scratch<float> weight;
};

// The working memory of one thread: a batch of matches with the logits of both ends.
template <typename C>
struct Batch {
  static constexpr int64_t capacity = 1024;

  Batch() : target(capacity), source(capacity), weight(capacity), a(capacity), b(capacity) {}

  Scratch<int32_t> target, source;
  Scratch<float> weight;
  Scratch<C> a, b;
};

// Calls body(count) with `count` matches of instance n in the batch, until it has seen all that count. Up to the end of
// the last vector weights and logits are 0.
template <typename T, typename Body>
void for_matches(const TkLoss& args, const MatchList& list, int64_t n, int64_t pair, const Batch<Compute<T>>& batch,
                 const Body& body) {
  using C = Compute<T>;
  const int64_t area = args.height * args.width;
  const T* logits = static_cast<const T*>(args.logits) + n * args.frames * area;
  const T* target_logits = logits + args.pairs[2 * pair] * area;
  const T* source_logits = logits + args.pairs[2 * pair + 1] * area;
  CountedRows counted(args.boxes + n * args.frames * 4, args.frames, args.height, args.width);
  int32_t* const __restrict target = batch.target;
  int32_t* const __restrict source = batch.source;
  float* const __restrict weight = batch.weight;
  C* const __restrict a = batch.a;
  C* const __restrict b = batch.b;
  int64_t count = 0;
  const auto finish = [&] {
    for (int64_t j = 0; j < count; ++j) a[j] = load(target_logits[target[j]]);
    for (int64_t j = 0; j < count; ++j) b[j] = load(source_logits[source[j]]);
    for (int64_t j = count; j < whole_vectors(count); ++j) weight[j] = a[j] = b[j] = 0;
    body(count);
    count = 0;
  };

  for (int64_t y = 0; y < args.height; ++y) {
    const int64_t spans = counted.find(y);
    const int32_t* const start = list.start + y * (args.width + 1);
    for (int64_t s = 0; s < spans; ++s) {
      int64_t from = y * list.row_size + start[counted[s].begin];
      const int64_t end = y * list.row_size + start[counted[s].end];
      while (from < end) {
        const int64_t left = batch.capacity - count, size = end - from < left ? end - from : left;
        for (int64_t j = 0; j < size; ++j) {
          target[count + j] = list.target[from + j];
          source[count + j] = list.source[from + j];
          weight[count + j] = list.weight[from + j];
        }
        count += size;
        from += size;
        if (count == batch.capacity) finish();
      }
    }
  }
  if (count > 0) finish();
}

template <typename T>
void sum_pair(const TkLoss& args, const MatchList& list, int64_t n, int64_t pair, const Batch<Compute<T>>& batch,
              Compute<T>* loss_sum, Compute<T>* weight_sum) {
  using C = Compute<T>;
  double total_loss = 0, total_weight = 0;
  for_matches<T>(args, list, n, pair, batch, [&](int64_t count) {
    const float* weight = batch.weight;
    const C *a = batch.a, *b = batch.b;
    C loss = 0, weights = 0;
#pragma omp simd reduction(+ : loss, weights)
    for (int64_t j = 0; j < whole_vectors(count); ++j) {
      loss += weight[j] * disagreement(a[j], decay(a[j]), b[j], decay(b[j]));
      weights += weight[j];
    }
    total_loss += loss;
    total_weight += weights;
  });
  *loss_sum = static_cast<C>(total_loss);
  *weight_sum = static_cast<C>(total_weight);
}

// Adds the gradient of one pair to `grad`, the [T, H, W] of the instance.
template <typename T>
void backward_pair(const TkLoss& args, const MatchList& list, int64_t n, int64_t pair, Compute<T> grad_sum,
                   const Batch<Compute<T>>& batch, Compute<T>* grad) {
  using C = Compute<T>;
  C* const grad_target = grad + args.pairs[2 * pair] * args.height * args.width;
  C* const grad_source = grad + args.pairs[2 * pair + 1] * args.height * args.width;
  for_matches<T>(args, list, n, pair, batch, [&](int64_t count) {
    const float* weight = batch.weight;
    C *to_a = batch.a, *to_b = batch.b;  // the logits, then what is to be added to their gradients
#pragma omp simd
    for (int64_t j = 0; j < whole_vectors(count); ++j) {
      C slope_a, slope_b;
      disagreement_slopes(to_a[j], decay(to_a[j]), to_b[j], decay(to_b[j]), grad_sum * weight[j], slope_a, slope_b);
      to_a[j] = slope_a;
      to_b[j] = slope_b;
    }
    for (int64_t j = 0; j < count; ++j) grad_target[batch.target[j]] += to_a[j];
    for (int64_t j = 0; j < count; ++j) grad_source[batch.source[j]] += to_b[j];
  });
}

// visit(list, n, pair, batch) for every instance and pair; the pairs in order, the instances of a pair on all threads.
template <typename C, typename Visit>
void for_pairs(const TkLoss& args, const Visit& visit) {
  const MatchList list(args);
  for (int64_t video = 0; video < args.videos; ++video) {
    const Group group(args, video);
    if (group.is_empty()) continue;
    for (int64_t pair = 0; pair < args.pair_count; ++pair) {
      list.fill(args, group, video, pair);
      parallel_for(group.size, 1, [&](int64_t begin, int64_t end) {
        const Batch<C> batch;
        for (int64_t i = begin; i < end; ++i) visit(list, group.instances[i], pair, batch);
      });
    }
  }
}

void tk_loss_terms(const TkLoss& args, void* loss_sums, void* weight_sums) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    for_pairs<C>(args, [&](const MatchList& list, int64_t n, int64_t pair, const Batch<C>& batch) {
      const int64_t at = n * args.pair_count + pair;
      sum_pair<T>(args, list, n, pair, batch, static_cast<C*>(loss_sums) + at, static_cast<C*>(weight_sums) + at);
    });
  });
}

void tk_loss_terms_backward(const TkLoss& args, const void* grad_loss_sums, void* grad_logits) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    for_pairs<C>(args, [&](const MatchList& list, int64_t n, int64_t pair, const Batch<C>& batch) {
      const C grad_sum = static_cast<const C*>(grad_loss_sums)[n * args.pair_count + pair];
      C* const grad = static_cast<C*>(grad_logits) + n * args.frames * args.height * args.width;
      backward_pair<T>(args, list, n, pair, grad_sum, batch, grad);
    });
  });
}

MFVIS_CPU_KERNEL(tk_loss_terms_kernel, tk_loss_terms)
MFVIS_CPU_KERNEL(tk_loss_terms_backward_kernel, tk_loss_terms_backward)

}  // namespace
}  // namespace mfvis
