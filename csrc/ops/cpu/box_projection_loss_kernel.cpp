#include "../box_projection_loss.h"

#include <cstring>
#include <type_traits>

#include "../../common/math.h"
#include "../../common/parallel.h"
#include "../../common/prefetch.h"
#include "../../common/scratch.h"
#include "../../common/stream.h"
#include "../../common/vector.h"

namespace mfvis {
namespace {

// σ grows with its argument, so the maximum of the probabilities is the probability of the maximal logit: one pass over
// the logits, then H + W sigmoids. A frame is two profiles, what each row and what each column shows of the mask: the
// probabilities, and when the loss is known their slopes in the same place.
template <typename C>
struct Profiles {
  C* row;                    // [H]
  C* column;                 // [W]
  int32_t* first_of_row;     // [H], a column
  int32_t* first_of_column;  // [W], a row
};

// As wide as a C, so that vectors of both have as many lanes.
template <typename C>
using Index = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;

template <typename C>
Profiles<C> profiles_of(const BoxProjection& args, const BoxMaxima& kept, int64_t item) {
  C* const row = static_cast<C*>(kept.slope) + item * (args.height + args.width);
  int32_t* const position = kept.position + item * (args.height + args.width);
  return {row, row + args.height, position, position + args.height};
}

// So many elements as numbers to compute with.
template <typename C, int count, typename T>
typename Numbers<C, count>::Type numbers_at(const T* data) {
  using Values = typename Numbers<C, count>::Type;
  if constexpr (std::is_same_v<T, C>) {
    return *reinterpret_cast<const Values*>(data);
  } else {
    Values values;
    for (int i = 0; i < count; ++i) values[i] = load(data[i]);
    return values;
  }
}

// A row to come is fetched while these are compared; alone, the processor waits for memory half the time.
constexpr int64_t rows_ahead = 12;

// One pass over a frame, in vectors of `count` columns. Four rows at a time, so that the columns' maxima are read and
// written a quarter as often:
//
//              columns x ... x + count
//   row y     [ ][ ][ ][ ]  > row_max[0]?   of each lane what it saw highest of the row and in which column: the row's
//   row y + 1 [ ][ ][ ][ ]  > row_max[1]?   maximum is the highest of all lanes, first of those that have it
//   row y + 2 [ ][ ][ ][ ]  > row_max[2]?
//   row y + 3 [ ][ ][ ][ ]  > row_max[3]?
//           > column_max[x]? from top to bottom
//
// What there is to a row beyond the frame's end is its last row again, and the columns left over from whole vectors are
// the row's last vector: to see an element twice changes nothing, the first to be highest stays.
template <int count, typename T, typename C>
void find_profiles(const T* frame, int64_t height, int64_t width, C* column_max, Index<C>* column_at,
                   const Profiles<C>& out) {
  using Values = typename Numbers<C, count>::Type;
  using Places = typename Numbers<Index<C>, count>::Type;
  constexpr int rows = 4;
  const C lowest = -__builtin_inf();
  for (int64_t x = 0; x < width; ++x) column_max[x] = lowest;
  for (int64_t x = 0; x < width; ++x) column_at[x] = 0;
  Places lane;
  for (int i = 0; i < count; ++i) lane[i] = i;
  Values sum{};
  for (int64_t y = 0; y < height; y += rows) {
    const T* row[rows];
    Values row_max[rows];
    Places row_at[rows];
    for (int r = 0; r < rows; ++r) {
      row[r] = frame + (y + r < height ? y + r : height - 1) * width;
      row_max[r] = Values{} + lowest;
      row_at[r] = Places{};
    }
    const auto look_at = [&](int64_t x) {
      const Places here = lane + static_cast<Index<C>>(x);
      // Copies: what the compiler must take for memory that others see is written after every row.
      Values highest = *reinterpret_cast<Values*>(column_max + x);
      Places highest_at = *reinterpret_cast<Places*>(column_at + x);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const Values value = numbers_at<C, count>(row[r] + x);
        row_at[r] = value > row_max[r] ? here : row_at[r];
        row_max[r] = value > row_max[r] ? value : row_max[r];
        highest_at = value > highest ? Places{} + static_cast<Index<C>>(y + r) : highest_at;
        highest = value > highest ? value : highest;
        sum += value;
      }
      *reinterpret_cast<Values*>(column_max + x) = highest;
      *reinterpret_cast<Places*>(column_at + x) = highest_at;
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
        const Index<C> place = row_max[r][i] == highest ? row_at[r][i] : first;
        first = place < first ? place : first;
      }
      out.row[y + r] = highest;
      out.first_of_row[y + r] = static_cast<int32_t>(first);
    }
  }

  // The comparisons lose a NaN. The sum does not, but it may be one without, of infinities.
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

// The dice of one axis, and in place of each p the derivative of the mean over `items` frames by its logit.
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

// As many rows of the gradient as stay in the second cache.
constexpr int64_t band_bytes = 128 << 10;

// Slopes at their places, zeros elsewhere. A band of zeros is given its few slopes, goes to memory in one stream, and
// becomes zeros again where it was given some.
template <typename T>
void backward(const BoxProjection& args, const BoxMaxima& kept, Compute<T> grad_loss, T* grad_logits) {
  using C = Compute<T>;
  const int64_t height = args.height, width = args.width, items = args.instances * args.frames;
  const int64_t fitting = 1 + band_bytes / (width * static_cast<int64_t>(sizeof(T)));
  const int64_t rows = fitting < height ? fitting : height;
  parallel_for(items, 1 + 16384 / (1 + height * width), [&](int64_t begin, int64_t end) {
    const Scratch<T> zeros(rows * width + 64);
    T* const band = to_line(+zeros);
    for (int64_t i = begin; i < end; ++i) {
      const Profiles<C> slopes = profiles_of<C>(args, kept, i);
      for (int64_t first = 0; first < height; first += rows) {
        const int64_t count = first + rows < height ? rows : height - first;
        const auto visit = [&](const auto& at_column, const auto& at_row) {
          for (int64_t x = 0; x < width; ++x) {
            const int64_t y = slopes.first_of_column[x] - first;
            if (y >= 0 && y < count) at_column(band + y * width + x, x);
          }
          for (int64_t y = 0; y < count; ++y) at_row(band + y * width + slopes.first_of_row[first + y], first + y);
        };
        visit([&](T* to, int64_t x) { store(grad_loss * slopes.column[x], to); },
              [&](T* to, int64_t y) { store(load(*to) + grad_loss * slopes.row[y], to); });
        stream(band, count * width, grad_logits + (i * height + first) * width);
        visit([](T* to, int64_t) { *to = T{}; }, [](T* to, int64_t) { *to = T{}; });
      }
    }
    end_streams();
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
