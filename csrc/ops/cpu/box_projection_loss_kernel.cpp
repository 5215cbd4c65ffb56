#include "../box_projection_loss.h"

#include <cstring>
#include <type_traits>

#include "../../common/math.h"
#include "../../common/nontemporal.h"
#include "../../common/parallel.h"
#include "../../common/prefetch.h"
#include "../../common/scratch.h"
#include "../../common/vector.h"

namespace mfvis {
namespace {

// The sigmoid is monotonic, so the maximum of the probabilities is the probability of the maximal logit: one pass over
// the logits, then H + W sigmoids. A frame has two profiles, one value per row and one per column. They hold the
// probabilities, which are replaced by their gradients when the loss is known.
template <typename C>
struct Profiles {
  C* row;                    // [H]
  C* column;                 // [W]
  int32_t* first_of_row;     // [H], a column index
  int32_t* first_of_column;  // [W], a row index
};

// As wide as a C, so that vectors of both have the same number of lanes.
template <typename C>
using Index = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;

template <typename C>
Profiles<C> profiles_of(const BoxProjection& args, const BoxMaxima& kept, int64_t item) {
  C* const row = static_cast<C*>(kept.slope) + item * (args.height + args.width);
  int32_t* const position = kept.position + item * (args.height + args.width);
  return {row, row + args.height, position, position + args.height};
}

// Loads `count` elements in the compute type.
template <typename C, int count, typename T>
typename SimdVector<C, count>::Type load_vector(const T* data) {
  using Values = typename SimdVector<C, count>::Type;
  if constexpr (std::is_same_v<T, C>) {
    return *reinterpret_cast<const Values*>(data);
  } else {
    Values values;
    for (int i = 0; i < count; ++i) values[i] = load(data[i]);
    return values;
  }
}

// A later row is prefetched while these are compared. Otherwise the processor waits for memory half of the time.
constexpr int64_t rows_ahead = 12;

// One pass over a frame, in vectors of `count` columns and four rows at a time, so that the columns' maxima are read
// and written a quarter as often:
//
//              columns x ... x + count
//   row y     [ ][ ][ ][ ]  > row_max[0]?   per lane the maximum of the row so far and its column; the row's maximum is
//   row y + 1 [ ][ ][ ][ ]  > row_max[1]?   the maximum over the lanes, and among equal ones the first
//   row y + 2 [ ][ ][ ][ ]  > row_max[2]?
//   row y + 3 [ ][ ][ ][ ]  > row_max[3]?
//           > column_max[x]? from top to bottom
//
// The last row is repeated to complete a group of four, and the last vector of a row overlaps the one before. Seeing an
// element twice changes nothing, because the first maximum is kept.
template <int count, typename T, typename C>
void find_profiles(const T* frame, int64_t height, int64_t width, C* column_max, Index<C>* column_at,
                   const Profiles<C>& out) {
  using Values = typename SimdVector<C, count>::Type;
  using Indices = typename SimdVector<Index<C>, count>::Type;
  constexpr int rows = 4;
  const C lowest = -__builtin_inf();
  for (int64_t x = 0; x < width; ++x) column_max[x] = lowest;
  for (int64_t x = 0; x < width; ++x) column_at[x] = 0;
  Indices lane;
  for (int i = 0; i < count; ++i) lane[i] = i;
  Values sum{};
  for (int64_t y = 0; y < height; y += rows) {
    const T* row[rows];
    Values row_max[rows];
    Indices row_at[rows];
    for (int r = 0; r < rows; ++r) {
      row[r] = frame + (y + r < height ? y + r : height - 1) * width;
      row_max[r] = Values{} + lowest;
      row_at[r] = Indices{};
    }
    const auto look_at = [&](int64_t x) {
      const Indices here = lane + static_cast<Index<C>>(x);
      // Local copies: the compiler would write memory that others may read after every row.
      Values highest = *reinterpret_cast<Values*>(column_max + x);
      Indices highest_at = *reinterpret_cast<Indices*>(column_at + x);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const Values value = load_vector<C, count>(row[r] + x);
        row_at[r] = value > row_max[r] ? here : row_at[r];
        row_max[r] = value > row_max[r] ? value : row_max[r];
        highest_at = value > highest ? Indices{} + static_cast<Index<C>>(y + r) : highest_at;
        highest = value > highest ? value : highest;
        sum += value;
      }
      *reinterpret_cast<Values*>(column_max + x) = highest;
      *reinterpret_cast<Indices*>(column_at + x) = highest_at;
    };
    for (int64_t x = 0; x + count <= width; x += count) look_at(x);
    if (width % count != 0) look_at(width - count);
    for (int r = 0; r < rows && y + r < height; ++r) {
      prefetch(frame, (y + r + rows_ahead) * width, width);
      C highest = lowest;
#pragma omp simd reduction(max : highest)
      for (int i = 0; i < count; ++i) highest = row_max[r][i] > highest ? row_max[r][i] : highest;
      Index<C> first = static_cast<Index<C>>(width);
#pragma omp simd reduction(min : first)
      for (int i = 0; i < count; ++i) {
        const Index<C> candidate = row_max[r][i] == highest ? row_at[r][i] : first;
        first = candidate < first ? candidate : first;
      }
      out.row[y + r] = highest;
      out.first_of_row[y + r] = static_cast<int32_t>(first);
    }
  }

  // The comparisons ignore NaN. The sum keeps it, but can also be NaN because of infinities.
  bool has_nan = false;
  for (int i = 0; i < count; ++i) has_nan |= sum[i] != sum[i];
  if (has_nan) {
    has_nan = false;
    for (int64_t i = 0; i < height * width; ++i) has_nan |= load(frame[i]) != load(frame[i]);
  }
  const C poison = has_nan ? static_cast<C>(__builtin_nan("")) : 0;
  for (int64_t y = 0; y < height; ++y) out.row[y] = sigmoid(out.row[y]) + poison;
  for (int64_t x = 0; x < width; ++x) out.column[x] = sigmoid(column_max[x]) + poison;
  for (int64_t x = 0; x < width; ++x) out.first_of_column[x] = static_cast<int32_t>(column_at[x]);
}

// Returns the dice loss of one axis, and replaces each p by the derivative of the mean over `items` frames with respect
// to its logit.
template <typename C>
double differentiate(C* p, int64_t size, Span span, double items) {
  double squares = 0, inside = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) squares += static_cast<double>(p[i]) * p[i];
#pragma omp simd reduction(+ : inside)
  for (int64_t i = span.begin; i < span.end; ++i) inside += p[i];
  const Dice dice = Dice::of(inside, squares, span);
  const double share = 1 / items;
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    p[i] = static_cast<C>(share * dice.by_logit(p[i], (i >= span.begin) & (i < span.end)));
  }
  return dice.loss;
}

template <typename T>
void forward(const BoxProjection& args, const BoxMaxima& kept, Compute<T>* loss, double* per_frame) {
  using C = Compute<T>;
  const int64_t height = args.height, width = args.width, items = args.instances * args.frames;
  parallel_for(items, 1 + 16384 / (1 + height * width), [&](int64_t begin, int64_t end) {
    const Scratch<C> column_max(width);
    const Scratch<Index<C>> column_at(width);
    for (int64_t i = begin; i < end; ++i) {
      const Profiles<C> profiles = profiles_of<C>(args, kept, i);
      if (!ever_present(args, i / args.frames)) {
        per_frame[i] = 0;
        std::memset(profiles.row, 0, static_cast<size_t>(height + width) * sizeof(C));
        std::memset(profiles.first_of_row, 0, static_cast<size_t>(height + width) * sizeof(int32_t));
        continue;
      }
      const T* const frame = static_cast<const T*>(args.logits) + i * height * width;
      if (width < Vector<C>::size) {
        find_profiles<1>(frame, height, width, +column_max, +column_at, profiles);
      } else {
        find_profiles<Vector<C>::size>(frame, height, width, +column_max, +column_at, profiles);
      }
      const FrameSpans spans = spans_of(args.boxes + i * 4, height, width);
      per_frame[i] = differentiate(profiles.column, width, spans.x, static_cast<double>(items)) +
                     differentiate(profiles.row, height, spans.y, static_cast<double>(items));
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < items; ++i) sum += per_frame[i];
  *loss = static_cast<C>(sum / static_cast<double>(items));
}

// Rows of the gradient that fit in the L2 cache.
constexpr int64_t band_bytes = 128 << 10;

// The gradient is zero except at the maxima. A band of zeros receives its few values, is stored, and is reset to zeros
// at these positions. With `add` the gradient itself is the only band.
template <typename T>
void backward(const BoxProjection& args, const BoxMaxima& kept, Compute<T> grad_loss, T* grad_logits) {
  using C = Compute<T>;
  const int64_t height = args.height, width = args.width, items = args.instances * args.frames;
  const int64_t fitting = 1 + band_bytes / (width * static_cast<int64_t>(sizeof(T)));
  const int64_t rows = args.add ? height : min(fitting, height);
  parallel_for(items, 1 + 16384 / (1 + height * width), [&](int64_t begin, int64_t end) {
    const Scratch<T> zeros(args.add ? 0 : rows * width + 64);
    for (int64_t i = begin; i < end; ++i) {
      const Profiles<C> slopes = profiles_of<C>(args, kept, i);
      for (int64_t first = 0; first < height; first += rows) {
        const int64_t count = min(rows, height - first);
        T* const to_rows = grad_logits + (i * height + first) * width;
        T* const band = args.add ? to_rows : align_to_cache_line(+zeros);
        const auto visit = [&](const auto& at_column, const auto& at_row) {
          for (int64_t x = 0; x < width; ++x) {
            const int64_t y = slopes.first_of_column[x] - first;
            if (y >= 0 && y < count) at_column(band + y * width + x, x);
          }
          for (int64_t y = 0; y < count; ++y) at_row(band + y * width + slopes.first_of_row[first + y], first + y);
        };
        visit([&](T* to, int64_t x) { store(load(*to) + grad_loss * slopes.column[x], to); },
              [&](T* to, int64_t y) { store(load(*to) + grad_loss * slopes.row[y], to); });
        if (args.add) continue;
        store_nontemporal(band, count * width, to_rows);
        visit([](T* to, int64_t) { *to = T{}; }, [](T* to, int64_t) { *to = T{}; });
      }
    }
    store_fence();
  });
}

void box_projection_terms(const BoxProjection& args, const BoxMaxima& kept, const BoxPeaks&, void* loss,
                          double* per_frame) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    forward<T>(args, kept, static_cast<Compute<T>*>(loss), per_frame);
  });
}

void box_projection_terms_backward(const BoxProjection& args, const BoxMaxima& kept, const void* grad_loss,
                                   void* grad_logits) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    backward<T>(args, kept, *static_cast<const Compute<T>*>(grad_loss), static_cast<T*>(grad_logits));
  });
}

MFVIS_CPU_KERNEL(box_projection_terms_kernel, box_projection_terms)
MFVIS_CPU_KERNEL(box_projection_terms_backward_kernel, box_projection_terms_backward)

}  // namespace
}  // namespace mfvis
