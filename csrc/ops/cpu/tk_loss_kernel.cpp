// The matches with a weight are listed once for all instances (match_list.h). Each instance then visits only the pixels
// that count for it: the union of its boxes' columns per row, as a few spans, where a span of pixels is a range of the
// lists. Its matches are collected in batches, which the formulas process as whole vectors. Every instance and pair has
// its own sums, and every instance its own gradient, written by one thread in a fixed order: no atomics, and the same
// bits for any number of threads.
#include "../tk_loss.h"

#include <cstring>
#include <type_traits>

#include "../../common/box.h"
#include "../../common/math.h"
#include "../../common/parallel.h"
#include "../../common/prefetch.h"
#include "../../common/scratch.h"
#include "match_list.h"

namespace mfvis {
namespace {

// The pixels that count for an instance: per row the union of its boxes' columns.
class CountedRows {
 public:
  CountedRows(int64_t frames, int64_t height, int64_t width)
      : frames_(frames), height_(height), width_(width), size_(height), spans_(height * frames) {}

  void assign(const float* boxes) const {
    for (int64_t y = 0; y < height_; ++y) size_[y] = 0;
    for (int64_t t = 0; t < frames_; ++t) {
      const float* box = boxes + 4 * t;
      if (!box_is_present(box)) continue;
      const Span rows = pixels_inside(box[1], box[3], height_), columns = pixels_inside(box[0], box[2], width_);
      if (columns.begin >= columns.end) continue;
      for (int64_t y = rows.begin; y < rows.end; ++y) add(y, columns);
    }
  }

  // The spans of row y, disjoint, sorted and not adjacent.
  int64_t size(int64_t y) const { return size_[y]; }
  const Span* spans(int64_t y) const { return spans_ + y * frames_; }

  // Prefetches the counted pixels of a plane of logits. Gathers would wait for memory pixel by pixel.
  template <typename T>
  __attribute__((always_inline)) void prefetch_counted(const T* plane, int64_t width) const {
    for (int64_t y = 0; y < height_; ++y) {
      for (int64_t s = 0; s < size_[y]; ++s) {
        prefetch(plane, y * width + spans(y)[s].begin, spans(y)[s].end - spans(y)[s].begin);
      }
    }
  }

 private:
  void add(int64_t y, Span added) const {
    Span* const spans = spans_ + y * frames_;
    int64_t kept = 0;
    for (int64_t i = 0; i < size_[y]; ++i) {
      const Span other = spans[i];
      if (other.end < added.begin || other.begin > added.end) {
        spans[kept++] = other;
      } else {
        added = {min(other.begin, added.begin), max(other.end, added.end)};
      }
    }
    int64_t at = kept++;
    for (; at > 0 && spans[at - 1].begin > added.begin; --at) spans[at] = spans[at - 1];
    spans[at] = added;
    size_[y] = kept;
  }

  int64_t frames_, height_, width_;
  Scratch<int64_t> size_;
  Scratch<Span> spans_;
};

// The working memory of one thread: the pixels that count for an instance, and a batch of its matches with the logits
// of both ends.
template <typename C>
struct Batch {
  static constexpr int64_t capacity = 1024;

  explicit Batch(const TkLoss& args)
      : counted(args.frames, args.height, args.width),
        target(capacity),
        source(capacity),
        weight(capacity),
        a(capacity),
        b(capacity) {}

  CountedRows counted;
  Scratch<int32_t> target, source;
  Scratch<float> weight;
  Scratch<C> a, b;
};

// Calls body(count) with `count` matches of instance n in the batch until all that count were visited. Weights and
// logits are 0 in the padding up to a whole vector.
template <typename T, typename Body>
void for_matches(const TkLoss& args, const MatchList& list, int64_t n, int64_t pair, const Batch<Compute<T>>& batch,
                 const Body& body) {
  using C = Compute<T>;
  const int64_t area = args.height * args.width, of_pair = args.video_index[n] * args.pair_count + pair;
  const T* logits = static_cast<const T*>(args.logits) + n * args.frames * area;
  const T* target_logits = logits + args.pairs[2 * pair] * area;
  const T* source_logits = logits + args.pairs[2 * pair + 1] * area;
  int32_t* const __restrict target = batch.target;
  int32_t* const __restrict source = batch.source;
  float* const __restrict weight = batch.weight;
  C* const __restrict a = batch.a;
  C* const __restrict b = batch.b;
  batch.counted.prefetch_counted(target_logits, args.width);
  batch.counted.prefetch_counted(source_logits, args.width);  // except for a margin as wide as the window
  int64_t count = 0;
  const auto finish = [&] {
    for (int64_t j = 0; j < count; ++j) a[j] = load(target_logits[target[j]]);
    for (int64_t j = 0; j < count; ++j) b[j] = load(source_logits[source[j]]);
    for (int64_t j = count; j < round_up_to_lanes(count); ++j) weight[j] = a[j] = b[j] = 0;
    body(count);
    count = 0;
  };

  for (int64_t y = 0; y < args.height; ++y) {
    const int32_t* const start = list.starts(of_pair, y, args.width);
    const int64_t part = list.block_offset(of_pair, y);
    const Span* const spans = batch.counted.spans(y);
    for (int64_t s = 0; s < batch.counted.size(y); ++s) {
      int64_t from = part + start[spans[s].begin];
      const int64_t end = part + start[spans[s].end];
      while (from < end) {
        const int64_t left = batch.capacity - count, size = min(end - from, left);
        for (int64_t j = 0; j < size; ++j) {
          target[count + j] = list.target[from + j];
          source[count + j] = source_of(list.match[from + j]);
          weight[count + j] = weight_of(list.match[from + j]);
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
    for (int64_t j = 0; j < round_up_to_lanes(count); ++j) {
      loss += weight[j] * disagreement(a[j], exp_neg_abs(a[j]), b[j], exp_neg_abs(b[j]));
      weights += weight[j];
    }
    total_loss += loss;
    total_weight += weights;
  });
  *loss_sum = static_cast<C>(total_loss);
  *weight_sum = static_cast<C>(total_weight);
}

// plane[index[j]] += value[j]. The matches of a pixel are consecutive, and an addition waits for the previous one to
// the same address. Interleaving four quarters of the batch avoids most of these waits.
template <typename C>
void add_to(C* plane, const int32_t* __restrict index, const C* __restrict value, int64_t count) {
  const int64_t quarter = count / 4;
  for (int64_t j = 0; j < quarter; ++j) {
    for (int64_t at = j; at < j + 4 * quarter; at += quarter) plane[index[at]] += value[at];
  }
  for (int64_t j = 4 * quarter; j < count; ++j) plane[index[j]] += value[j];
}

// Adds the gradient of one pair to `grad`, [T, H, W] of the instance.
template <typename T>
void backward_pair(const TkLoss& args, const MatchList& list, int64_t n, int64_t pair, Compute<T> grad_sum,
                   const Batch<Compute<T>>& batch, Compute<T>* grad) {
  using C = Compute<T>;
  C* const grad_target = grad + args.pairs[2 * pair] * args.height * args.width;
  C* const grad_source = grad + args.pairs[2 * pair + 1] * args.height * args.width;
  for_matches<T>(args, list, n, pair, batch, [&](int64_t count) {
    const float* weight = batch.weight;
    C *to_a = batch.a, *to_b = batch.b;  // the logits, then their gradients
#pragma omp simd
    for (int64_t j = 0; j < round_up_to_lanes(count); ++j) {
      C slope_a, slope_b;
      disagreement_slopes(to_a[j], exp_neg_abs(to_a[j]), to_b[j], exp_neg_abs(to_b[j]), grad_sum * weight[j], slope_a,
                          slope_b);
      to_a[j] = slope_a;
      to_b[j] = slope_b;
    }
    add_to(grad_target, batch.target, to_a, count);
    add_to(grad_source, batch.source, to_b, count);
  });
}

// Calls visit(n, batch) for every instance, on all threads. The batch holds the pixels that count for it.
template <typename C, typename Visit>
void for_instances(const TkLoss& args, const Visit& visit) {
  parallel_for(args.instances, 1, [&](int64_t from, int64_t to) {
    const Batch<C> batch(args);
    for (int64_t n = from; n < to; ++n) {
      batch.counted.assign(args.boxes + n * args.frames * 4);
      visit(n, batch);
    }
  });
}

void tk_loss_terms(const TkLoss& args, void* loss_sums, void* weight_sums) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    const MatchList list(args);
    for_instances<C>(args, [&](int64_t n, const Batch<C>& batch) {
      for (int64_t pair = 0; pair < args.pair_count; ++pair) {
        const int64_t at = n * args.pair_count + pair;
        sum_pair<T>(args, list, n, pair, batch, static_cast<C*>(loss_sums) + at, static_cast<C*>(weight_sums) + at);
      }
    });
  });
}

// Half-precision sums would lose small terms: gradients are accumulated in the compute type.
template <typename T>
void backward(const TkLoss& args, const Compute<T>* grad_loss_sums, T* grad_logits) {
  using C = Compute<T>;
  constexpr bool in_place = std::is_same_v<T, C>;
  const MatchList list(args);
  const int64_t volume = args.frames * args.height * args.width;
  for_instances<C>(args, [&](int64_t n, const Batch<C>& batch) {
    const Scratch<C> aside = Scratch<C>::unset(in_place ? 0 : volume);
    T* const out = grad_logits + n * volume;
    C* grad = aside;
    if constexpr (in_place) grad = out;
    std::memset(grad, 0, static_cast<size_t>(volume) * sizeof(C));
    for (int64_t pair = 0; pair < args.pair_count; ++pair) {
      backward_pair<T>(args, list, n, pair, grad_loss_sums[n * args.pair_count + pair], batch, grad);
    }
    if constexpr (!in_place) {
      for (int64_t i = 0; i < volume; ++i) store(grad[i], out + i);
    }
  });
}

void tk_loss_terms_backward(const TkLoss& args, const void* grad_loss_sums, void* grad_logits) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    backward<T>(args, static_cast<const Compute<T>*>(grad_loss_sums), static_cast<T*>(grad_logits));
  });
}

MFVIS_CPU_KERNEL(tk_loss_terms_kernel, tk_loss_terms)
MFVIS_CPU_KERNEL(tk_loss_terms_backward_kernel, tk_loss_terms_backward)

}  // namespace
}  // namespace mfvis
