// Only the pixels that count are visited: per row of an instance the union of its boxes' columns, as a few spans. Per
// span and match the sources are gathered, then the formulas run along the row on contiguous memory. Every instance and
// pair has its own sums, and in the backward pass every instance its own gradient, written by one thread in a fixed
// order: no atomics, and the same bits for any number of threads.
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

  // For the pixels x, x + 1, ... of row y: the index of the match in the source plane and its weight; the pixel's own
  // index and 0 where there is no match; 0 up to the end of the last vector. Returns whether any weight differs from 0.
  bool read(const int16_t* offset, const float* weight, int64_t y, int64_t x, int64_t size, int32_t* __restrict index,
            float* __restrict kept) const {
    const float per_row = 1.0f / static_cast<float>(side);
    const int32_t y0 = static_cast<int32_t>(y) + first_dy, x0 = static_cast<int32_t>(x) + first_dx;
    const int32_t own = static_cast<int32_t>(y * width + x);
    // Whole vectors here too, unless they would leave the plane.
    const int32_t padded = static_cast<int32_t>(whole_vectors(size));
    const int32_t read = own + padded <= height * width ? padded : static_cast<int32_t>(size);
    uint32_t any = 0;
#pragma omp simd reduction(| : any)
    for (int32_t i = 0; i < read; ++i) {
      const int32_t candidate = offset[i];
      const int32_t row = static_cast<int32_t>((static_cast<float>(candidate) + 0.5f) * per_row);
      const int32_t source_y = y0 + dilation * row;
      const int32_t source_x = x0 + i + dilation * (candidate - row * side);
      const bool exists = (candidate >= 0) & (candidate < side * side) & (source_y >= 0) & (source_y < height) &
                          (source_x >= 0) & (source_x < width);
      index[i] = exists ? source_y * width + source_x : own + i;
      kept[i] = exists ? weight[i] : 0.0f;
      any |= bits_as<uint32_t>(kept[i]) << 1;  // -0 is no weight either
    }
    for (int64_t i = size; i < padded; ++i) kept[i] = 0;
    return any != 0;
  }

  int32_t height, width, side, dilation;
  int32_t first_dy, first_dx;
};

// The working memory of one thread: rows of the frame's width and a vector more.
template <typename C>
struct Rows {
  explicit Rows(int64_t width)
      : index(width + lanes),
        kept(width + lanes),
        a(width + lanes),
        decay_a(width + lanes),
        b(width + lanes),
        first_sum(width + lanes),
        second_sum(width + lanes) {}

  Scratch<int32_t> index;
  Scratch<float> kept;
  Scratch<C> a, decay_a, b, first_sum, second_sum;
};

template <typename T>
void sum_pair(const TkLoss& args, int64_t n, int64_t pair, const Rows<Compute<T>>& rows, Compute<T>* loss_sum,
              Compute<T>* weight_sum) {
  using C = Compute<T>;
  const int64_t area = args.height * args.width, video = args.video_index[n];
  const T* logits = static_cast<const T*>(args.logits) + n * args.frames * area;
  const T* target = logits + args.pairs[2 * pair] * area;
  const T* source = logits + args.pairs[2 * pair + 1] * area;
  const int64_t first_match = (video * args.pair_count + pair) * args.matches;
  const Window window(args, video, pair);
  CountedRows counted(args.boxes + n * args.frames * 4, args.frames, args.height, args.width);
  C *loss = rows.first_sum, *weights = rows.second_sum;  // per column, added up at the end
  for (int64_t x = 0; x < args.width + lanes; ++x) loss[x] = weights[x] = 0;

  for (int64_t y = 0; y < args.height; ++y) {
    const int64_t spans = counted.find(y);
    for (int64_t s = 0; s < spans; ++s) {
      const int64_t x = counted[s].begin, size = counted[s].end - x, padded = whole_vectors(size);
      C* __restrict a = rows.a;
      C* __restrict decay_a = rows.decay_a;
      for (int64_t i = 0; i < size; ++i) a[i] = load(target[y * args.width + x + i]);
      for (int64_t i = 0; i < padded; ++i) decay_a[i] = decay(a[i]);
      for (int64_t k = 0; k < args.matches; ++k) {
        const int64_t at = (first_match + k) * area + y * args.width + x;
        if (!window.read(args.offset + at, args.weight + at, y, x, size, rows.index, rows.kept)) continue;
        const float* kept = rows.kept;
        C* __restrict b = rows.b;
        for (int64_t i = 0; i < size; ++i) b[i] = load(source[rows.index[i]]);
#pragma omp simd
        for (int64_t i = 0; i < padded; ++i) {
          const C term = kept[i] * disagreement(a[i], decay_a[i], b[i], decay(b[i]));
          loss[x + i] += kept[i] != 0 ? term : C(0);  // what does not match may be infinite
          weights[x + i] += kept[i];
        }
      }
    }
  }
  double total_loss = 0, total_weight = 0;
  for (int64_t x = 0; x < args.width; ++x) {
    total_loss += loss[x];
    total_weight += weights[x];
  }
  *loss_sum = static_cast<C>(total_loss);
  *weight_sum = static_cast<C>(total_weight);
}

// Adds the gradient of one pair to `grad`, the [T, H, W] of the instance.
template <typename T>
void backward_pair(const TkLoss& args, int64_t n, int64_t pair, Compute<T> grad_sum, const Rows<Compute<T>>& rows,
                   Compute<T>* grad) {
  using C = Compute<T>;
  const int64_t area = args.height * args.width, video = args.video_index[n];
  const T* logits = static_cast<const T*>(args.logits) + n * args.frames * area;
  const int64_t target_frame = args.pairs[2 * pair] * area, source_frame = args.pairs[2 * pair + 1] * area;
  const T *target = logits + target_frame, *source = logits + source_frame;
  C *grad_target = grad + target_frame, *grad_source = grad + source_frame;
  const int64_t first_match = (video * args.pair_count + pair) * args.matches;
  const Window window(args, video, pair);
  CountedRows counted(args.boxes + n * args.frames * 4, args.frames, args.height, args.width);

  for (int64_t y = 0; y < args.height; ++y) {
    const int64_t spans = counted.find(y);
    for (int64_t s = 0; s < spans; ++s) {
      const int64_t x = counted[s].begin, size = counted[s].end - x, padded = whole_vectors(size);
      C* __restrict a = rows.a;
      C* __restrict decay_a = rows.decay_a;
      C* __restrict to_a = rows.first_sum;
      for (int64_t i = 0; i < size; ++i) a[i] = load(target[y * args.width + x + i]);
      for (int64_t i = 0; i < padded; ++i) {
        decay_a[i] = decay(a[i]);
        to_a[i] = 0;
      }
      for (int64_t k = 0; k < args.matches; ++k) {
        const int64_t at = (first_match + k) * area + y * args.width + x;
        if (!window.read(args.offset + at, args.weight + at, y, x, size, rows.index, rows.kept)) continue;
        const int32_t* index = rows.index;
        const float* kept = rows.kept;
        C* __restrict b = rows.b;
        C* __restrict to_b = rows.second_sum;
        for (int64_t i = 0; i < size; ++i) b[i] = load(source[index[i]]);
#pragma omp simd
        for (int64_t i = 0; i < padded; ++i) {
          C slope_a, slope_b;
          disagreement_slopes(a[i], decay_a[i], b[i], decay(b[i]), grad_sum * kept[i], slope_a, slope_b);
          to_a[i] += kept[i] != 0 ? slope_a : C(0);
          to_b[i] = kept[i] != 0 ? slope_b : C(0);
        }
        for (int64_t i = 0; i < size; ++i) grad_source[index[i]] += to_b[i];
      }
      for (int64_t i = 0; i < size; ++i) grad_target[y * args.width + x + i] += to_a[i];
    }
  }
}

template <typename T>
void forward(const TkLoss& args, Compute<T>* loss_sum, Compute<T>* weight_sum) {
  parallel_for(args.instances * args.pair_count, 1, [&](int64_t begin, int64_t end) {
    const Rows<Compute<T>> rows(args.width);
    for (int64_t item = begin; item < end; ++item) {
      // The instances of a pair one after the other: its offsets and weights stay in the cache.
      const int64_t n = item % args.instances, pair = item / args.instances, at = n * args.pair_count + pair;
      sum_pair<T>(args, n, pair, rows, loss_sum + at, weight_sum + at);
    }
  });
}

// Where a gradient is accumulated: in the output itself where its elements are those of the computation, else beside
// it.
template <typename T>
struct Accumulator {
  static constexpr bool in_place = false;
  explicit Accumulator(int64_t size) : sums(size) {}
  Compute<T>* in(T*) const { return sums; }
  void finish(T* grad, int64_t size) const {
    for (int64_t i = 0; i < size; ++i) store(sums[i], grad + i);
  }
  Scratch<Compute<T>> sums;
};
template <typename T>
struct InPlace {
  static constexpr bool in_place = true;
  explicit InPlace(int64_t) {}
  T* in(T* grad) const { return grad; }
  void finish(T*, int64_t) const {}
};
template <>
struct Accumulator<float> : InPlace<float> {
  using InPlace<float>::InPlace;
};
template <>
struct Accumulator<double> : InPlace<double> {
  using InPlace<double>::InPlace;
};

template <typename T>
void backward(const TkLoss& args, const Compute<T>* grad_loss_sum, T* grad_logits) {
  const int64_t size = args.frames * args.height * args.width;
  parallel_for(args.instances, 1, [&](int64_t begin, int64_t end) {
    const Rows<Compute<T>> rows(args.width);
    const Accumulator<T> accumulator(size);
    // Again the instances of a pair one after the other, if their sums need no memory of their own.
    const int64_t group = Accumulator<T>::in_place ? end - begin : 1;
    for (int64_t first = begin; first < end; first += group) {
      Compute<T>* sums = accumulator.in(grad_logits + first * size);
      for (int64_t i = 0; i < group * size; ++i) sums[i] = 0;
      for (int64_t pair = 0; pair < args.pair_count; ++pair) {
        for (int64_t n = first; n < first + group; ++n) {
          const Compute<T> grad_sum = grad_loss_sum[n * args.pair_count + pair];
          backward_pair<T>(args, n, pair, grad_sum, rows, sums + (n - first) * size);
        }
      }
      accumulator.finish(grad_logits + first * size, size);
    }
  });
}

void tk_loss_terms(const TkLoss& args, void* loss_sum, void* weight_sum) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    forward<T>(args, static_cast<Compute<T>*>(loss_sum), static_cast<Compute<T>*>(weight_sum));
  });
}

void tk_loss_terms_backward(const TkLoss& args, const void* grad_loss_sum, void* grad_logits) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    backward<T>(args, static_cast<const Compute<T>*>(grad_loss_sum), static_cast<T*>(grad_logits));
  });
}

MFVIS_CPU_KERNEL(tk_loss_terms_kernel, tk_loss_terms)
MFVIS_CPU_KERNEL(tk_loss_terms_backward_kernel, tk_loss_terms_backward)

}  // namespace
}  // namespace mfvis
