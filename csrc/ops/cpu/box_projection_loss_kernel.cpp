#include "../box_projection_loss.h"

#include <cstring>

#include "../../common/math.h"
#include "../../common/memory.h"
#include "../../common/parallel.h"
#include "../../common/prefetch.h"
#include "../../common/scratch.h"

namespace mfvis {
namespace {

// σ grows with its argument, so the maximum of the probabilities is the probability of the maximal logit: one pass over
// the logits, then H + W sigmoids. A frame is two profiles, what each row and what each column shows of the mask.
template <typename C>
struct Profiles {
  C* row_p;                  // [H]
  C* column_p;               // [W]
  int32_t* first_of_row;     // [H], a column
  int32_t* first_of_column;  // [W], a row
};

template <typename C>
Profiles<C> profiles_of(const BoxProjection& args, const BoxProfiles& kept, int64_t item) {
  C* const p = static_cast<C*>(kept.p) + item * (args.height + args.width);
  int32_t* const position = kept.position + item * (args.height + args.width);
  return {p, p + args.height, position, position + args.height};
}

// The first column of the row with this value; 0 if none has it (a row of NaN has no maximum). In chunks, so that it
// can stop early, of a fixed size, which needs no loop for a remainder: the last one overlaps the one before.
template <typename T, typename C>
int32_t first_column(const T* row, int32_t width, C value) {
  constexpr int32_t chunk = 128;
  const auto first_from = [=](int32_t begin, int32_t count) {
    int32_t first = width;
#pragma omp simd reduction(min : first)
    for (int32_t i = 0; i < count; ++i) {
      const int32_t here = load(row[begin + i]) == value ? begin + i : width;
      first = here < first ? here : first;
    }
    return first;
  };
  int32_t first = width;
  if (width < chunk) {
    first = first_from(0, width);
  } else {
    for (int32_t begin = 0; begin < width && first == width; begin += chunk) {
      first = first_from(begin <= width - chunk ? begin : width - chunk, chunk);
    }
  }
  return first < width ? first : 0;
}

// A row to come is fetched while this one is searched; alone, the processor waits for memory half the time.
constexpr int64_t rows_ahead = 12;

// One pass over a frame. Four rows at a time: four independent running maxima hide the latency of one, and the columns'
// maxima are read and written a quarter as often. What there is to a row beyond the frame's end is its last row again;
// it is never the first to hold a maximum.
template <typename T, typename C>
void find_profiles(const T* frame, int64_t height, int64_t width, C* __restrict column_max, const Profiles<C>& out) {
  int32_t* const __restrict first_of_column = out.first_of_column;
  const C lowest = -__builtin_inf();
  for (int64_t x = 0; x < width; ++x) column_max[x] = lowest;
  for (int64_t x = 0; x < width; ++x) first_of_column[x] = 0;
  const auto row_at = [=](int64_t y) { return y < height ? y : height - 1; };
  const int64_t whole = width & ~(lanes - 1);
  int has_nan = 0;  // The comparisons lose a NaN, so it is looked for apart.
  for (int64_t y = 0; y < height; y += 4) {
    const T* const __restrict row0 = frame + y * width;
    const T* const __restrict row1 = frame + row_at(y + 1) * width;
    const T* const __restrict row2 = frame + row_at(y + 2) * width;
    const T* const __restrict row3 = frame + row_at(y + 3) * width;
    const int32_t at0 = static_cast<int32_t>(y), at1 = at0 + 1, at2 = at0 + 2, at3 = at0 + 3;
    C maxima[] = {lowest, lowest, lowest, lowest};
    const auto look_at = [&](int64_t begin, int64_t end) {
      C max0 = maxima[0], max1 = maxima[1], max2 = maxima[2], max3 = maxima[3];
      int unordered = 0;
#pragma omp simd reduction(max : max0, max1, max2, max3) reduction(| : unordered)
      for (int64_t x = begin; x < end; ++x) {
        const C v0 = load(row0[x]), v1 = load(row1[x]), v2 = load(row2[x]), v3 = load(row3[x]);
        max0 = v0 > max0 ? v0 : max0;
        max1 = v1 > max1 ? v1 : max1;
        max2 = v2 > max2 ? v2 : max2;
        max3 = v3 > max3 ? v3 : max3;
        const C left = v1 > v0 ? v1 : v0, right = v3 > v2 ? v3 : v2;
        const C highest = right > left ? right : left;
        const int32_t at_left = v1 > v0 ? at1 : at0, at_right = v3 > v2 ? at3 : at2;
        const int32_t at = right > left ? at_right : at_left;
        first_of_column[x] = highest > column_max[x] ? at : first_of_column[x];
        column_max[x] = highest > column_max[x] ? highest : column_max[x];
        unordered |= __builtin_isunordered(v0, v1) | __builtin_isunordered(v2, v3);
      }
      maxima[0] = max0, maxima[1] = max1, maxima[2] = max2, maxima[3] = max3;
      has_nan |= unordered;
    };
    // The columns left over from whole vectors as the row's last vector: to see a column twice changes nothing.
    look_at(0, whole);
    if (whole < width) look_at(width < lanes ? 0 : width - lanes, width);
    for (int64_t i = 0; i < 4 && y + i < height; ++i) {
      prefetch(frame, (y + i + rows_ahead) * width, width);
      out.row_p[y + i] = maxima[i];
      out.first_of_row[y + i] = first_column(frame + (y + i) * width, static_cast<int32_t>(width), maxima[i]);
    }
  }
  const C poison = has_nan ? static_cast<C>(__builtin_nan("")) : 0;
  C* const __restrict row_p = out.row_p;
  C* const __restrict column_p = out.column_p;
  for (int64_t y = 0; y < height; ++y) row_p[y] = sigmoid(row_p[y]) + poison;
  for (int64_t x = 0; x < width; ++x) column_p[x] = sigmoid(column_max[x]) + poison;
}

template <typename C>
Dice dice(const C* p, int64_t size, Span span) {
  double squares = 0, inside = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) squares += static_cast<double>(p[i]) * p[i];
#pragma omp simd reduction(+ : inside)
  for (int64_t i = span.begin; i < span.end; ++i) inside += p[i];
  return Dice::of(inside, squares, span);
}

template <typename T>
void forward(const BoxProjection& args, const BoxProfiles& kept, Compute<T>* loss, double* per_frame) {
  using C = Compute<T>;
  const int64_t height = args.height, width = args.width, items = args.instances * args.frames;
  parallel_for(items, 1 + 16384 / (1 + height * width), [&](int64_t begin, int64_t end) {
    const Scratch<C> column_max(width);
    for (int64_t i = begin; i < end; ++i) {
      const Profiles<C> profiles = profiles_of<C>(args, kept, i);
      if (!ever_present(args, i / args.frames)) {
        per_frame[i] = 0;
        std::memset(profiles.row_p, 0, static_cast<size_t>(height + width) * sizeof(C));
        std::memset(profiles.first_of_row, 0, static_cast<size_t>(height + width) * sizeof(int32_t));
        continue;
      }
      find_profiles<T, C>(static_cast<const T*>(args.logits) + i * height * width, height, width, column_max, profiles);
      const FrameSpans spans = spans_of(args.boxes + i * 4, height, width);
      per_frame[i] = dice(profiles.column_p, width, spans.x).loss() + dice(profiles.row_p, height, spans.y).loss();
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < items; ++i) sum += per_frame[i];
  *loss = static_cast<C>(sum / static_cast<double>(items));
}

template <typename T>
void backward(const BoxProjection& args, const BoxProfiles& kept, Compute<T> grad_loss, T* grad_logits) {
  using C = Compute<T>;
  const int64_t height = args.height, width = args.width, items = args.instances * args.frames;
  const double scale = static_cast<double>(grad_loss) / static_cast<double>(items);
  parallel_for(items, 1 + 16384 / (1 + height * width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* const grad = grad_logits + i * height * width;
      std::memset(grad, 0, static_cast<size_t>(height * width) * sizeof(T));
      if (!ever_present(args, i / args.frames)) continue;
      const Profiles<C> profiles = profiles_of<C>(args, kept, i);
      const FrameSpans spans = spans_of(args.boxes + i * 4, height, width);

      const Dice on_x = dice(profiles.column_p, width, spans.x);
      for (int64_t x = 0; x < width; ++x) {
        const double p = profiles.column_p[x], by_p = on_x.by_p(p, spans.x.begin <= x && x < spans.x.end);
        store(static_cast<C>(scale * by_p * p * (1 - p)), grad + profiles.first_of_column[x] * width + x);
      }
      const Dice on_y = dice(profiles.row_p, height, spans.y);
      for (int64_t y = 0; y < height; ++y) {
        const double p = profiles.row_p[y], by_p = on_y.by_p(p, spans.y.begin <= y && y < spans.y.end);
        const int64_t at = y * width + profiles.first_of_row[y];
        store(load(grad[at]) + static_cast<C>(scale * by_p * p * (1 - p)), grad + at);
      }
    }
  });
}

void box_projection_terms(const BoxProjection& args, const BoxProfiles& kept, const BoxPeaks&, void* loss,
                          double* per_frame) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    forward<T>(args, kept, static_cast<Compute<T>*>(loss), per_frame);
  });
}

void box_projection_terms_backward(const BoxProjection& args, const BoxProfiles& kept, const void* grad_loss,
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
