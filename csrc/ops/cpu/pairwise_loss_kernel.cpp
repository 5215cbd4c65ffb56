// The disagreement is symmetric, so every unordered pair of neighbors is computed once and counted once for each of its
// two pixels that lies in the box. Half of the neighbors suffice, those below and to the right. Only the box and its
// surroundings are visited, one row of pairs at a time. Each instance and frame has its own sums and its own gradient,
// written by one thread in a fixed order.
#include "../pairwise_loss.h"

#include "../../common/arithmetic.h"
#include "../../common/box.h"
#include "../../common/math.h"
#include "../../common/nontemporal.h"
#include "../../common/parallel.h"
#include "../../common/scratch.h"

namespace mfvis {
namespace {

// The box of an instance in a frame, and its surroundings within the frame.
struct Region {
  Region(const PairwiseLoss& args, int64_t item) : height(args.height), width(args.width) {
    const float* box = args.boxes + item * 4;
    rows = columns = {0, 0};
    if (box_is_present(box)) {
      rows = pixels_inside(box[1], box[3], height);
      columns = pixels_inside(box[0], box[2], width);
    }
    const int64_t reach = args.dilation * (args.kernel_size / 2);
    if (empty()) return;
    around_rows = {max<int64_t>(0, rows.begin - reach), min(height, rows.end + reach)};
    around_columns = {max<int64_t>(0, columns.begin - reach), min(width, columns.end + reach)};
  }
  bool empty() const { return rows.begin >= rows.end || columns.begin >= columns.end; }

  // Adds the values in and around the box to a frame, and resets them to zero.
  template <typename C, typename T>
  void add_and_clear(C* values, T* frame) const {
    for (int64_t y = around_rows.begin; y < around_rows.end; ++y) {
      C* __restrict const row = values + y * width;
      T* __restrict const to = frame + y * width;
#pragma omp simd
      for (int64_t x = around_columns.begin; x < around_columns.end; ++x) {
        store(load(to[x]) + row[x], to + x);
        row[x] = 0;
      }
    }
  }

  int64_t height, width;
  Span rows, columns;
  Span around_rows{0, 0}, around_columns{0, 0};
};

// Calls visit(y, dy, dx, x_begin, x_end, first_counts, second_counts) for every row of pairs (y, x), (y + dy, x + dx)
// that touches the box. first_counts and second_counts: whether the row of the first and of the second pixel does.
template <typename Visit>
void each_row_of_pairs(const PairwiseLoss& args, const Region& region, const Visit& visit) {
  const int64_t half = args.kernel_size / 2;
  for (int64_t y = region.around_rows.begin; y < region.rows.end; ++y) {
    const bool first_counts = y >= region.rows.begin;
    for (int64_t step_y = 0; step_y <= half; ++step_y) {
      const int64_t dy = step_y * args.dilation;
      const bool second_counts = y + dy >= region.rows.begin && y + dy < region.rows.end;
      if (y + dy >= region.height || !(first_counts || second_counts)) continue;
      for (int64_t step_x = step_y == 0 ? 1 : -half; step_x <= half; ++step_x) {
        const int64_t dx = step_x * args.dilation;
        const Span &first = region.columns, second{region.columns.begin - dx, region.columns.end - dx};
        Span x = first_counts ? first : second;
        if (first_counts && second_counts) x = {min(first.begin, second.begin), max(first.end, second.end)};
        x = {max(x.begin, max<int64_t>(0, -dx)), min(x.end, min(region.width, region.width - dx))};
        if (x.begin < x.end) visit(y, dy, dx, x.begin, x.end, first_counts, second_counts);
      }
    }
  }
}

// How often each pair of a row counts: 0, 1 or 2; 0 if the colors differ too much, and in the padding up to a whole
// vector.
void count_pairs(const PairwiseLoss& args, const Region& region, const float* colors, int64_t y, int64_t dy, int64_t dx,
                 int64_t x_begin, int64_t x_end, bool first_counts, bool second_counts, int32_t* __restrict count) {
  const int64_t area = args.height * args.width;
  const float *p = colors + y * args.width, *q = p + dy * args.width + dx;
  const int32_t first = first_counts, second = second_counts, size = static_cast<int32_t>(x_end - x_begin);
  const int32_t x1 = static_cast<int32_t>(region.columns.begin - x_begin);
  const int32_t x2 = static_cast<int32_t>(region.columns.end - x_begin);
  const int32_t step = static_cast<int32_t>(dx);
  p += x_begin;
  q += x_begin;
#pragma omp simd
  for (int32_t i = 0; i < size; ++i) {
    const float l = p[i] - q[i], a = p[area + i] - q[area + i], b = p[2 * area + i] - q[2 * area + i];
    const int32_t in_box = first * ((i >= x1) & (i < x2)) + second * ((i + step >= x1) & (i + step < x2));
    count[i] = l * l + a * a + b * b <= args.max_squared_distance ? in_box : 0;
  }
  for (int32_t i = size; i < round_up_to_lanes(size); ++i) count[i] = 0;
}

template <typename C>
struct Planes {
  Planes(int64_t height, int64_t width)
      : logits(height * width + lanes),
        exp_neg_abs(height * width + lanes),
        loss(width + lanes),
        counts(width + lanes),
        slope(width + lanes),
        count(width + lanes) {}

  Scratch<C> logits, exp_neg_abs, loss, counts, slope;
  Scratch<int32_t> count;
};

// The logits around the box in the compute type, and exp(-|logit|), which all pairs of a pixel share.
template <typename T>
void prepare(const Region& region, const T* logits, const Planes<Compute<T>>& planes) {
  for (int64_t y = region.around_rows.begin; y < region.around_rows.end; ++y) {
    const int64_t first = y * region.width + region.around_columns.begin;
    const int64_t size = region.around_columns.end - region.around_columns.begin;
    Compute<T>*a = planes.logits + first, *exp_a = planes.exp_neg_abs + first;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) a[i] = load(logits[first + i]);
#pragma omp simd
    for (int64_t i = 0; i < round_up_to_lanes(size); ++i) exp_a[i] = exp_neg_abs(a[i]);
  }
}

const float* colors_of(const PairwiseLoss& args, int64_t item) {
  const int64_t n = item / args.frames, t = item % args.frames;
  return args.colors + (args.video_index[n] * args.frames + t) * 3 * args.height * args.width;
}

template <typename T>
void sum_frame(const PairwiseLoss& args, int64_t item, const Planes<Compute<T>>& planes, Compute<T>* loss_sum,
               Compute<T>* count_sum) {
  using C = Compute<T>;
  *loss_sum = *count_sum = 0;
  const Region region(args, item);
  if (region.empty()) return;
  prepare(region, static_cast<const T*>(args.logits) + item * args.height * args.width, planes);
  C *loss = planes.loss, *counts = planes.counts;  // per column, summed at the end
  for (int64_t x = 0; x < args.width + lanes; ++x) loss[x] = counts[x] = 0;
  const float* colors = colors_of(args, item);
  each_row_of_pairs(
      args, region,
      [&](int64_t y, int64_t dy, int64_t dx, int64_t x_begin, int64_t x_end, bool first_counts, bool second_counts) {
        int32_t* const count = planes.count;
        count_pairs(args, region, colors, y, dy, dx, x_begin, x_end, first_counts, second_counts, count);
        const int64_t p = y * args.width + x_begin, q = p + dy * args.width + dx,
                      size = round_up_to_lanes(x_end - x_begin);
        const C *a = planes.logits + p, *exp_a = planes.exp_neg_abs + p, *b = planes.logits + q,
                *exp_b = planes.exp_neg_abs + q;
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) {
          const C term = static_cast<C>(count[i]) * disagreement(a[i], exp_a[i], b[i], exp_b[i]);
          loss[x_begin + i] += count[i] != 0 ? term : C(0);  // pairs that do not count may be infinite
          counts[x_begin + i] += static_cast<C>(count[i]);
        }
      });
  double total_loss = 0, total_count = 0;
  for (int64_t x = 0; x < args.width; ++x) {
    total_loss += loss[x];
    total_count += counts[x];
  }
  *loss_sum = static_cast<C>(total_loss);
  *count_sum = static_cast<C>(total_count);
}

// grad: [H, W], zero on entry in and around the box.
template <typename T>
void backward_frame(const PairwiseLoss& args, const Region& region, int64_t item, Compute<T> grad_sum,
                    const Planes<Compute<T>>& planes, Compute<T>* grad) {
  using C = Compute<T>;
  if (region.empty()) return;
  prepare(region, static_cast<const T*>(args.logits) + item * args.height * args.width, planes);
  const float* colors = colors_of(args, item);
  each_row_of_pairs(
      args, region,
      [&](int64_t y, int64_t dy, int64_t dx, int64_t x_begin, int64_t x_end, bool first_counts, bool second_counts) {
        int32_t* const count = planes.count;
        count_pairs(args, region, colors, y, dy, dx, x_begin, x_end, first_counts, second_counts, count);
        const int64_t p = y * args.width + x_begin, q = p + dy * args.width + dx,
                      size = round_up_to_lanes(x_end - x_begin);
        const C *a = planes.logits + p, *exp_a = planes.exp_neg_abs + p, *b = planes.logits + q,
                *exp_b = planes.exp_neg_abs + q;
        C *to_b = planes.slope, *grad_a = grad + p, *grad_b = grad + q;
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) {
          const C scale = grad_sum * static_cast<C>(count[i]);
          C slope_a, slope_b;
          disagreement_slopes(a[i], exp_a[i], b[i], exp_b[i], scale, slope_a, slope_b);
          grad_a[i] += count[i] != 0 ? slope_a : C(0);
          to_b[i] = count[i] != 0 ? slope_b : C(0);
        }
        // A separate loop, because both rows are the same if dy is 0.
        for (int64_t i = 0; i < size; ++i) grad_b[i] += to_b[i];
      });
}

template <typename T>
void forward(const PairwiseLoss& args, Compute<T>* loss_sum, Compute<T>* count) {
  parallel_for(args.instances * args.frames, 1, [&](int64_t begin, int64_t end) {
    const Planes<Compute<T>> planes(args.height, args.width);
    for (int64_t item = begin; item < end; ++item) sum_frame<T>(args, item, planes, loss_sum + item, count + item);
  });
}

template <typename T>
void backward(const PairwiseLoss& args, const Compute<T>* grad_loss_sum, T* grad_logits) {
  const int64_t area = args.height * args.width;
  parallel_for(args.instances * args.frames, 1, [&](int64_t begin, int64_t end) {
    const Planes<Compute<T>> planes(args.height, args.width);
    const Scratch<Compute<T>> sums(area + lanes + 64);
    Compute<T>* const grad = align_to_cache_line(+sums);
    for (int64_t item = begin; item < end; ++item) {
      const Region region(args, item);
      for (int64_t i = 0; !args.add && i < area; ++i) grad[i] = 0;
      backward_frame<T>(args, region, item, grad_loss_sum[item], planes, grad);
      if (args.add) {
        region.add_and_clear(grad, grad_logits + item * area);
      } else {
        store_nontemporal(grad, area, grad_logits + item * area);
      }
    }
    store_fence();
  });
}

void pairwise_loss_terms(const PairwiseLoss& args, void* loss_sum, void* count) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    forward<T>(args, static_cast<Compute<T>*>(loss_sum), static_cast<Compute<T>*>(count));
  });
}

void pairwise_loss_terms_backward(const PairwiseLoss& args, const void* grad_loss_sum, void* grad_logits) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    backward<T>(args, static_cast<const Compute<T>*>(grad_loss_sum), static_cast<T*>(grad_logits));
  });
}

MFVIS_CPU_KERNEL(pairwise_loss_terms_kernel, pairwise_loss_terms)
MFVIS_CPU_KERNEL(pairwise_loss_terms_backward_kernel, pairwise_loss_terms_backward)

}  // namespace
}  // namespace mfvis
