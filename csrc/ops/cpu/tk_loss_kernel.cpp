// Most of the k nearest patches of a pixel are too far to weigh anything, and all instances and decoder layers of a
// video share the rest. So the matches of the frame pairs are read once and those with a weight are listed, pixel by
// pixel. A block of rows has a part of the lists to itself, as long as if each of its matches weighed something, and
// fills it from the front only: what it does not need is never touched.
//
//   start    P x H x (W + 1)   where the matches of a pixel begin in its block's part of the lists
//   target   P x H x W·K       the pixel itself, an index into the plane
//   match    P x H x W·K       its match, an index into the other plane, and the weight
//
// Then each instance visits only the pixels that count for it: per row the union of its boxes' columns, as a few spans,
// a span of pixels being a range of the lists. Its matches are collected in batches over which the formulas run as
// whole vectors. Every instance and pair has its own sums, and every instance its own gradient, written by one thread
// in a fixed order: no atomics, and the same bits for any number of threads.
#include "../tk_loss.h"

#include <cstring>

#include "../../common/box.h"
#include "../../common/math.h"
#include "../../common/memory.h"
#include "../../common/parallel.h"
#include "../../common/scratch.h"

namespace mfvis {
namespace {

// The pixels of an instance that count: of each row the union of its boxes' columns.
class CountedRows {
 public:
  CountedRows(int64_t frames, int64_t height, int64_t width)
      : frames_(frames), height_(height), width_(width), size_(height), spans_(height * frames) {}

  void of(const float* boxes) const {
    for (int64_t y = 0; y < height_; ++y) size_[y] = 0;
    for (int64_t t = 0; t < frames_; ++t) {
      const float* box = boxes + 4 * t;
      if (!box_is_present(box)) continue;
      const Span rows = pixels_inside(box[1], box[3], height_), columns = pixels_inside(box[0], box[2], width_);
      if (columns.begin >= columns.end) continue;
      for (int64_t y = rows.begin; y < rows.end; ++y) add(y, columns);
    }
  }

  // The spans of row y, disjoint and in order, no two of them adjacent.
  int64_t size(int64_t y) const { return size_[y]; }
  const Span* spans(int64_t y) const { return spans_ + y * frames_; }

 private:
  void add(int64_t y, Span added) const {
    Span* const spans = spans_ + y * frames_;
    int64_t kept = 0;
    for (int64_t i = 0; i < size_[y]; ++i) {
      const Span other = spans[i];
      if (other.end < added.begin || other.begin > added.end) {
        spans[kept++] = other;
      } else {
        added = {other.begin < added.begin ? other.begin : added.begin, other.end > added.end ? other.end : added.end};
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

int32_t clamp_shift(int64_t shift) {
  constexpr int64_t far = 1 << 28;
  return static_cast<int32_t>(shift < -far ? -far : shift > far ? far : shift);
}

// A match in one word, which is cheaper to move: the pixel in the source plane in the lower half, the weight above.
MFVIS_HOST_DEVICE uint64_t match_of(int32_t source, float weight) {
  return static_cast<uint64_t>(bits_as<uint32_t>(weight)) << 32 | static_cast<uint32_t>(source);
}
MFVIS_HOST_DEVICE int32_t source_of(uint64_t match) { return static_cast<int32_t>(match); }
MFVIS_HOST_DEVICE float weight_of(uint64_t match) { return bits_as<float>(static_cast<uint32_t>(match >> 32)); }
MFVIS_HOST_DEVICE bool weighs_something(uint64_t match) { return match >> 32 << 33 != 0; }  // -0 does not

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

  // The matches of the pixels x, x + 1, ... of row y; of weight 0 where there is none.
  void read(const int16_t* offset, const float* weight, int64_t y, int64_t x, int64_t size,
            uint64_t* __restrict matches) const {
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
      matches[i] = match_of(source_y * width + source_x, exists ? weight[i] : 0.0f);
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

  Scratch<int64_t> instances;
  int64_t size = 0;
  Span rows, columns;

 private:
  static Span around(Span a, Span b) { return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end}; }
};

// The matches that weigh something of as many pairs as fit, drawn above.
struct MatchList {
  explicit MatchList(const TkLoss& args)
      : row_size(args.width * args.matches),
        blocks((args.height + block_rows - 1) / block_rows),
        pairs(pairs_at_once(args)),
        longest(pairs * blocks * block_rows * row_size),
        memory(longest * 12 + pairs * args.height * (args.width + 1) * 4),
        match(memory.from<uint64_t>(0)),
        target(memory.from<int32_t>(longest * 8)),
        start(memory.from<int32_t>(longest * 12)) {}

  // Lists `pairs` pairs, or what is left, from `first` on.
  void fill(const TkLoss& args, const Group& group, int64_t video, int64_t first) const {
    const int64_t count = args.pair_count - first < pairs ? args.pair_count - first : pairs;
    parallel_for(count * blocks, 1, [&](int64_t begin, int64_t end) {
      const Scratch<uint64_t> read = Scratch<uint64_t>::unset(piece * args.matches);
      for (int64_t item = begin; item < end; ++item) {
        fill_block(args, group, video, first, item / blocks, item % blocks, read);
      }
    });
  }

  // Where the matches of row y of the pair at a place in the list begin, for `start` to count from.
  int64_t part_of(int64_t place, int64_t y) const { return (place * blocks + y / block_rows) * block_rows * row_size; }

  static constexpr int64_t block_rows = 8;
  static constexpr int64_t piece = 64;  // columns that are read together
  int64_t row_size, blocks, pairs, longest;
  KeptMemory memory;
  uint64_t* match;
  int32_t *target, *start;

 private:
  static int64_t pairs_at_once(const TkLoss& args) {
    constexpr int64_t enough = 1 << 21;  // matches: some tens of MB if all weigh something
    const int64_t fitting = enough / (1 + args.height * args.width * args.matches);
    const int64_t wanted = fitting < args.pair_count ? fitting : args.pair_count;
    return wanted < 1 ? 1 : wanted;
  }

  void fill_block(const TkLoss& args, const Group& group, int64_t video, int64_t first, int64_t place, int64_t block,
                  uint64_t* read) const {
    const int64_t area = args.height * args.width, matches = args.matches, pair = first + place;
    const int64_t top = block * block_rows, bottom = top + block_rows;
    const Window window(args, video, pair);
    int32_t* const targets = target + part_of(place, top);
    uint64_t* const kept = match + part_of(place, top);
    int32_t count = 0;
    for (int64_t y = top < group.rows.begin ? group.rows.begin : top; y < bottom && y < group.rows.end; ++y) {
      int32_t* const starts = start + (place * args.height + y) * (args.width + 1);
      for (int64_t x = group.columns.begin, end; x < group.columns.end; x = end) {
        end = x + piece < group.columns.end ? x + piece : group.columns.end;
        const int64_t size = end - x, own = y * args.width + x;
        int64_t filled = 0;  // where textures differ, few k have any match that weighs something
        for (int64_t k = 0; k < matches; ++k) {
          const int64_t at = ((video * args.pair_count + pair) * matches + k) * area + own;
          if (!any_weighs_something(args.weight + at, size)) continue;
          window.read(args.offset + at, args.weight + at, y, x, size, read + size * filled++);
        }
        count = keep(read, size, filled, static_cast<int32_t>(own), count, starts + x, targets, kept);
      }
      starts[group.columns.end] = count;
    }
  }

  static bool any_weighs_something(const float* weight, int64_t size) {
    int any = 0;
#pragma omp simd reduction(| : any)
    for (int64_t i = 0; i < size; ++i) any |= weight[i] != 0;
    return any;
  }

  // Appends the matches `read`, [k, size], of the pixels own, own + 1, ... that weigh something; returns how many there
  // are then. Not inlined: amidst its caller's many variables the loop would have no registers left.
  __attribute__((noinline)) static int32_t keep(const uint64_t* __restrict read, int64_t size, int64_t matches,
                                                int32_t own, int32_t count, int32_t* __restrict starts,
                                                int32_t* __restrict targets, uint64_t* __restrict kept) {
    for (int64_t i = 0; i < size; ++i) {
      starts[i] = count;
      for (const uint64_t *at = read + i, *const end = at + matches * size; at < end; at += size) {
        targets[count] = own + static_cast<int32_t>(i);  // written in any case, kept only if it weighs something
        kept[count] = *at;
        count += weighs_something(*at);
      }
    }
    return count;
  }
};

// The working memory of one thread: the pixels that count for an instance, a batch of its matches with the logits of
// both ends.
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

// Calls body(count) with `count` matches of instance n in the batch, until it has seen all that count. Up to the end of
// the last vector weights and logits are 0.
template <typename T, typename Body>
void for_matches(const TkLoss& args, const MatchList& list, int64_t n, int64_t pair, int64_t place,
                 const Batch<Compute<T>>& batch, const Body& body) {
  using C = Compute<T>;
  const int64_t area = args.height * args.width;
  const T* logits = static_cast<const T*>(args.logits) + n * args.frames * area;
  const T* target_logits = logits + args.pairs[2 * pair] * area;
  const T* source_logits = logits + args.pairs[2 * pair + 1] * area;
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
    const int32_t* const start = list.start + (place * args.height + y) * (args.width + 1);
    const int64_t part = list.part_of(place, y);
    const Span* const spans = batch.counted.spans(y);
    for (int64_t s = 0; s < batch.counted.size(y); ++s) {
      int64_t from = part + start[spans[s].begin];
      const int64_t end = part + start[spans[s].end];
      while (from < end) {
        const int64_t left = batch.capacity - count, size = end - from < left ? end - from : left;
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
void sum_pair(const TkLoss& args, const MatchList& list, int64_t n, int64_t pair, int64_t place,
              const Batch<Compute<T>>& batch, Compute<T>* loss_sum, Compute<T>* weight_sum) {
  using C = Compute<T>;
  double total_loss = 0, total_weight = 0;
  for_matches<T>(args, list, n, pair, place, batch, [&](int64_t count) {
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

// plane[index[j]] += value[j]. The matches of a pixel follow one another, and an addition waits for the one before to
// the same address: four places of the batch at once wait for one another hardly ever.
template <typename C>
void add_to(C* plane, const int32_t* __restrict index, const C* __restrict value, int64_t count) {
  const int64_t quarter = count / 4;
  for (int64_t j = 0; j < quarter; ++j) {
    for (int64_t at = j; at < j + 4 * quarter; at += quarter) plane[index[at]] += value[at];
  }
  for (int64_t j = 4 * quarter; j < count; ++j) plane[index[j]] += value[j];
}

// Adds the gradient of one pair to `grad`, the [T, H, W] of the instance.
template <typename T>
void backward_pair(const TkLoss& args, const MatchList& list, int64_t n, int64_t pair, int64_t place,
                   Compute<T> grad_sum, const Batch<Compute<T>>& batch, Compute<T>* grad) {
  using C = Compute<T>;
  C* const grad_target = grad + args.pairs[2 * pair] * args.height * args.width;
  C* const grad_source = grad + args.pairs[2 * pair + 1] * args.height * args.width;
  for_matches<T>(args, list, n, pair, place, batch, [&](int64_t count) {
    const float* weight = batch.weight;
    C *to_a = batch.a, *to_b = batch.b;  // the logits, then what is to be added to their gradients
#pragma omp simd
    for (int64_t j = 0; j < whole_vectors(count); ++j) {
      C slope_a, slope_b;
      disagreement_slopes(to_a[j], decay(to_a[j]), to_b[j], decay(to_b[j]), grad_sum * weight[j], slope_a, slope_b);
      to_a[j] = slope_a;
      to_b[j] = slope_b;
    }
    add_to(grad_target, batch.target, to_a, count);
    add_to(grad_source, batch.source, to_b, count);
  });
}

// visit(list, n, pair, place, batch) for every instance and pair, which has a place in the list: the instances on all
// threads, the pairs of an instance in order, begin(n) before the first.
template <typename C, typename Begin, typename Visit>
void for_pairs(const TkLoss& args, const Begin& begin, const Visit& visit) {
  const MatchList list(args);
  for (int64_t video = 0; video < args.videos; ++video) {
    const Group group(args, video);
    for (int64_t first = 0; first == 0 || first < args.pair_count; first += list.pairs) {
      list.fill(args, group, video, first);
      parallel_for(group.size, 1, [&](int64_t from, int64_t to) {
        const Batch<C> batch(args);
        for (int64_t i = from; i < to; ++i) {
          const int64_t n = group.instances[i];
          if (first == 0) begin(n);
          batch.counted.of(args.boxes + n * args.frames * 4);
          for (int64_t place = 0; place < list.pairs && first + place < args.pair_count; ++place) {
            visit(list, n, first + place, place, batch);
          }
        }
      });
    }
  }
}

void tk_loss_terms(const TkLoss& args, void* loss_sums, void* weight_sums) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    const auto nothing = [](int64_t) {};
    for_pairs<C>(args, nothing,
                 [&](const MatchList& list, int64_t n, int64_t pair, int64_t place, const Batch<C>& batch) {
                   const int64_t at = n * args.pair_count + pair;
                   sum_pair<T>(args, list, n, pair, place, batch, static_cast<C*>(loss_sums) + at,
                               static_cast<C*>(weight_sums) + at);
                 });
  });
}

// Sums of half-precision numbers would lose the small ones: gradients are accumulated in the compute type.
template <typename T>
void backward(const TkLoss& args, const Compute<T>* grad_loss_sums, Compute<T>* sums) {
  using C = Compute<T>;
  const int64_t volume = args.frames * args.height * args.width;
  const auto zero = [&](int64_t n) { std::memset(sums + n * volume, 0, static_cast<size_t>(volume) * sizeof(C)); };
  for_pairs<C>(args, zero, [&](const MatchList& list, int64_t n, int64_t pair, int64_t place, const Batch<C>& batch) {
    backward_pair<T>(args, list, n, pair, place, grad_loss_sums[n * args.pair_count + pair], batch, sums + n * volume);
  });
}

void tk_loss_terms_backward(const TkLoss& args, const void* grad_loss_sums, void* grad_logits) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    const int64_t size = args.instances * args.frames * args.height * args.width;
    T* const grad = static_cast<T*>(grad_logits);
    use_huge_pages(grad, size * static_cast<int64_t>(sizeof(T)));
    if constexpr (sizeof(T) == sizeof(C)) {
      backward<T>(args, static_cast<const C*>(grad_loss_sums), grad);
    } else {
      const Scratch<C> sums = Scratch<C>::unset(size);
      use_huge_pages(sums, size * static_cast<int64_t>(sizeof(C)));
      backward<T>(args, static_cast<const C*>(grad_loss_sums), sums);
      parallel_for(size, 32768, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) store(sums[i], grad + i);
      });
    }
  });
}

MFVIS_CPU_KERNEL(tk_loss_terms_kernel, tk_loss_terms)
MFVIS_CPU_KERNEL(tk_loss_terms_backward_kernel, tk_loss_terms_backward)

}  // namespace
}  // namespace mfvis
