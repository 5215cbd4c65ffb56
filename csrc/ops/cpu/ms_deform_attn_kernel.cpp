// A thread processes one head of one batch element at a time. It first packs this head's part of the value, so that the
// four pixels around a sample are rows of whole vectors that lie close together:
//
//   value  [B, S, heads, D]  ──►  slice  [S + 1, D rounded up]   of the compute type; the last row is zero and replaces
//                                                                pixels outside of the level
//
// The backward pass accumulates the gradient in a second such slice, whose last row is never read, and writes it out
// once. Each slice belongs to one thread, which processes the queries in order: no atomics, and the same bits for any
// number of threads.
#include "../ms_deform_attn.h"

#include <cmath>
#include <type_traits>
#include <utility>

#include "../../common/math.h"
#include "../../common/parallel.h"
#include "../../common/scratch.h"
#include "../../common/vector.h"

namespace mfvis {
namespace {

// Prefetches the values of one head that are used later. They lie too far apart for the hardware prefetcher. The last
// one often lies in one more cache line than their number suggests.
template <typename C>
void fetch(const C* numbers, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(C))) __builtin_prefetch(numbers + i);
  __builtin_prefetch(numbers + count - 1);
}

// Copies and converts a short row; a call of memcpy takes longer.
template <typename From, typename To>
void copy_row(const From* __restrict from, int64_t count, To* __restrict to) {
  int64_t i = 0;
  if constexpr (std::is_same_v<From, To>) {
    using Four = typename SimdVector<From, 4>::Type;
    for (; i + 4 <= count; i += 4) *reinterpret_cast<Four*>(to + i) = *reinterpret_cast<const Four*>(from + i);
  }
  for (; i < count; ++i) store(load(from[i]), to + i);
}

// The packed part of one head of a tensor [S, heads, D].
template <typename C>
struct Slice {
  explicit Slice(const MsDeformAttn& args)
      : pixels(args.pixels),
        channels(args.channels),
        gap(args.heads * args.channels),
        stride(round_up_to_lanes(args.channels)),
        memory((args.pixels + 1) * stride + line),
        data(memory + (line - reinterpret_cast<uintptr_t>(static_cast<C*>(memory)) / sizeof(C) % line)) {}

  template <typename T>
  void pack(const T* tensor) const {
    for (int64_t s = 0; s < pixels; ++s) {
      fetch(tensor + (s + ahead) * gap, channels);
      copy_row(tensor + s * gap, channels, data + s * stride);
    }
  }
  template <typename T>
  void unpack(T* tensor) const {
    for (int64_t s = 0; s < pixels; ++s) {
      fetch(tensor + (s + ahead) * gap, channels);
      copy_row(data + s * stride, channels, tensor + s * gap);
    }
  }
  void clear() const {
    for (int64_t i = 0; i < (pixels + 1) * stride; ++i) data[i] = 0;
  }

  static constexpr uintptr_t line = 64 / sizeof(C);
  static constexpr int64_t ahead = 8;  // pixels

  int64_t pixels, channels, gap, stride;
  Scratch<C> memory;
  C* data;  // cache-line aligned: rows that span two lines take twice the time
};

constexpr auto sum_of_two = [](const auto& a, const auto& b) { return a + b; };
constexpr auto larger_of_two = [](const auto& a, const auto& b) { return a > b ? a : b; };

// Combines the halves of a vector until `left` elements are left.
template <typename C, int count, int left, typename Combine>
typename SimdVector<C, left>::Type fold(const typename SimdVector<C, count>::Type& vector, const Combine& combine) {
  if constexpr (count == left) {
    return vector;
  } else {
    using Half = typename SimdVector<C, count / 2>::Type;
    const Half* const half = reinterpret_cast<const Half*>(&vector);
    return fold<C, count / 2, left>(combine(half[0], half[1]), combine);
  }
}

// Combines all elements of a vector.
template <typename C, typename Combine>
C reduce(const typename Vector<C>::Type& vector, const Combine& combine) {
  const auto two = fold<C, Vector<C>::size, 2>(vector, combine);
  return combine(two[0], two[1]);
}

// The samples of a few queries and one head over all levels and points. Corners are ordered top left, top right, bottom
// left, bottom right.
//
// Loops over samples run to `padded` in whole vectors. What they compute beyond `count`, from whatever follows in
// memory, is never used.
//
// All queries are located before the first of them is read from the slice: the processor would otherwise wait for each
// query's rows, which take a long chain of operations.
template <typename C>
struct Samples {
  static constexpr int size = Vector<C>::size;
  using V = typename SimdVector<C, size>::Type;
  using Integer = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;
  using I = typename SimdVector<Integer, size>::Type;

  static constexpr int64_t queries = 8;

  explicit Samples(const MsDeformAttn& args)
      : count(args.levels * args.points),
        padded((count + size - 1) / size * size),
        total(args.batch * args.queries * args.heads * count),
        outside(static_cast<Integer>(args.pixels)),
        height(padded),
        width(padded),
        start(padded),
        right(queries * padded),
        below(queries * padded),
        row(queries * 4 * padded),
        share(queries * 4 * padded),
        dot(4 * padded),
        locations(2 * padded),
        weights(padded),
        exists(padded),
        softmax(args.softmax ? queries * padded : 0) {
    for (int64_t i = 0; i < count; ++i) {
      const DeformLevel& level = args.level[i / args.points];
      height[i] = static_cast<Integer>(level.height);
      width[i] = static_cast<Integer>(level.width);
      start[i] = static_cast<Integer>(level.start);
      exists[i] = 1;
    }
  }

  // With softmax: the weights of query i with the samples from `first` on. For all queries before the first `locate`,
  // as the processor would otherwise wait for each query's sum.
  void normalize(const MsDeformAttn& args, int64_t first, int64_t i) const {
    softmax_of(readable(static_cast<const C*>(args.weights), 1, first, weights), softmax + i * padded);
  }

  // The corners' rows in a slice, and their shares of the output, of query i with the samples from `first` on.
  void locate(const MsDeformAttn& args, int64_t first, int64_t i) const {
    const C* const location = readable(static_cast<const C*>(args.locations), 2, first, locations);
    const C* const weight = weights_of(args, first, i);
    for (int64_t block = 0; block < padded; block += size) {
      locate_block(i, block, location + 2 * block, weight + block);
    }
  }

  // The gradients of locations and weights from those of the four corners' shares, `dot`, after `locate`.
  void differentiate(const MsDeformAttn& args, int64_t first, int64_t i, C* grad_locations, C* grad_weights) const {
    const C* const weight = weights_of(args, first, i);
    for (int64_t block = 0; block < padded; block += size) differentiate_block(i * padded, block, weight + block);
    if (args.softmax) differentiate_softmax(weight);
    copy_row<C, C>(locations, 2 * count, grad_locations + 2 * first);
    copy_row<C, C>(weights, count, grad_weights + first);
  }

  const Integer* rows(int64_t i) const { return row + i * 4 * padded; }
  const C* shares(int64_t i) const { return share + i * 4 * padded; }

  int64_t count, padded, total;
  Integer outside;
  Scratch<Integer> height, width, start;
  Scratch<C> right, below;        // [queries, padded]
  Scratch<Integer> row;           // [queries, 4, padded]
  Scratch<C> share;               // [queries, 4, padded], including the weight
  Scratch<C> dot;                 // [padded, 4]
  Scratch<C> locations, weights;  // [padded, 2], [padded]: copies of inputs, then gradients
  Scratch<Integer> exists;        // [padded]: 1 up to `count`, then 0
  Scratch<C> softmax;             // [queries, padded]: the weights, if the input has their logits

 private:
  static V& vector_at(C* numbers) { return *reinterpret_cast<V*>(numbers); }
  static I& vector_at(Integer* numbers) { return *reinterpret_cast<I*>(numbers); }

  // `padded * size` numbers of `samples` from the sample `first` on: a copy if the tensor ends before.
  const C* readable(const C* tensor, int64_t size, int64_t first, C* own) const {
    const C* const numbers = tensor + first * size;
    if (first + padded <= total) return numbers;
    copy_row(numbers, count * size, own);
    return own;
  }

  const C* weights_of(const MsDeformAttn& args, int64_t first, int64_t i) const {
    if (args.softmax) return softmax + i * padded;
    return readable(static_cast<const C*>(args.weights), 1, first, weights);
  }

  // NaN in all weights if a logit is NaN or inf, or all are -inf.
  void softmax_of(const C* logits, C* weight) const {
    const V none = V{} - static_cast<C>(INFINITY);
    V most = none, sum{};
    for (int64_t block = 0; block < padded; block += size) {
      const V x = vector_at(exists + block) != 0 ? *reinterpret_cast<const V*>(logits + block) : none;
      vector_at(weight + block) = x;
      most = x > most ? x : most;
    }
    const C largest = reduce<C>(most, larger_of_two);
    for (int64_t block = 0; block < padded; block += size) {
#pragma omp simd
      for (int32_t k = 0; k < size; ++k) weight[block + k] = exp_of_negative_or_zero(weight[block + k] - largest);
      sum += vector_at(weight + block);
    }
    const C scale = 1 / reduce<C>(sum, sum_of_two);
    for (int64_t block = 0; block < padded; block += size) vector_at(weight + block) *= scale;
  }

  // Makes gradients of the logits from those of the weights.
  void differentiate_softmax(const C* weight) const {
    V sum{};
    for (int64_t block = 0; block < padded; block += size) {
      const V product = *reinterpret_cast<const V*>(weight + block) * vector_at(weights + block);
      sum += vector_at(exists + block) != 0 ? product : V{};
    }
    const C dot = reduce<C>(sum, sum_of_two);
    for (int64_t block = 0; block < padded; block += size) {
      vector_at(weights + block) = *reinterpret_cast<const V*>(weight + block) * (vector_at(weights + block) - dot);
    }
  }

  // One coordinate of `size` pairs.
  template <int first, int... i>
  static V every_other(const V* pairs, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(pairs[0], pairs[1], (first + 2 * i)...);
  }
  static constexpr std::make_integer_sequence<int, size> every{};

  // Positions of samples on one axis: the pixel before, and the distance from its center.
  struct Axis {
    I pixel;
    V to_next;
  };
  // As in_pixels(), floor_of() and pixel_of(), which compilers do not vectorize.
  static Axis axis(const V& location, const I& size) {
    const V sides = __builtin_convertvector(size, V), at = location * sides - C(0.5);
    const V below = at < sides ? at : sides, clipped = below > C(-2) ? below : V{} - 2;
    const I toward_zero = __builtin_convertvector(clipped, I);
    const I pixel = toward_zero + (__builtin_convertvector(toward_zero, V) > clipped);  // true is -1
    const V before = at == clipped ? __builtin_convertvector(pixel, V) : at;            // NaN remains
    return {pixel, at - before};
  }

  void locate_block(int64_t query, int64_t block, const C* location, const C* weight) const {
    const V* const pairs = reinterpret_cast<const V*>(location);
    const I h = vector_at(height + block), w = vector_at(width + block), none = I{} + outside;
    const Axis x = axis(every_other<0>(pairs, every), w), y = axis(every_other<1>(pairs, every), h);
    const I is_left = (x.pixel >= 0) & (x.pixel < w), is_right = (x.pixel >= -1) & (x.pixel + 1 < w);
    const I is_top = (y.pixel >= 0) & (y.pixel < h), is_bottom = (y.pixel >= -1) & (y.pixel + 1 < h);
    const I top_left = vector_at(start + block) + y.pixel * w + x.pixel;
    const int64_t at = query * padded + block, corner = 4 * query * padded + block;
    vector_at(row + corner) = is_top & is_left ? top_left : none;
    vector_at(row + corner + padded) = is_top & is_right ? top_left + 1 : none;
    vector_at(row + corner + 2 * padded) = is_bottom & is_left ? top_left + w : none;
    vector_at(row + corner + 3 * padded) = is_bottom & is_right ? top_left + w + 1 : none;
    const V weights_of_block = *reinterpret_cast<const V*>(weight);
    const V bottom = weights_of_block * y.to_next, top = weights_of_block * (1 - y.to_next);
    vector_at(share + corner) = top * (1 - x.to_next);
    vector_at(share + corner + padded) = top * x.to_next;
    vector_at(share + corner + 2 * padded) = bottom * (1 - x.to_next);
    vector_at(share + corner + 3 * padded) = bottom * x.to_next;
    vector_at(right + at) = x.to_next;
    vector_at(below + at) = y.to_next;
  }

  void differentiate_block(int64_t query, int64_t block, const C* weight) const {
    const Integer* const __restrict heights = height + block;
    const Integer* const __restrict widths = width + block;
    const C* const __restrict rights = right + query + block;
    const C* const __restrict bottoms = below + query + block;
    const C* const __restrict dots = dot + 4 * block;
    C* const grad_location = locations + 2 * block;
    C* const grad_weight = weights + block;
#pragma omp simd
    for (int32_t i = 0; i < size; ++i) {
      const C x = rights[i], y = bottoms[i], share_of_all = weight[i];
      const C dot0 = dots[4 * i], dot1 = dots[4 * i + 1], dot2 = dots[4 * i + 2], dot3 = dots[4 * i + 3];
      const C top = dot0 + x * (dot1 - dot0), bottom = dot2 + x * (dot3 - dot2);
      const C left = dot0 + y * (dot2 - dot0), far = dot1 + y * (dot3 - dot1);
      grad_location[2 * i] = share_of_all * static_cast<C>(widths[i]) * (far - left);
      grad_location[2 * i + 1] = share_of_all * static_cast<C>(heights[i]) * (bottom - top);
      grad_weight[i] = top + y * (bottom - top);  // may replace weight[i], which is read before
    }
  }
};

// The sums of four vectors.
template <typename C>
typename SimdVector<C, 4>::Type sums_of(const typename Vector<C>::Type (&vectors)[4]) {
  constexpr int size = Vector<C>::size;
  const auto a = fold<C, size, 4>(vectors[0], sum_of_two), b = fold<C, size, 4>(vectors[1], sum_of_two);
  const auto c = fold<C, size, 4>(vectors[2], sum_of_two), d = fold<C, size, 4>(vectors[3], sum_of_two);
  // Halves of two vectors at a time: [a0 + a2, b0 + b2, a1 + a3, b1 + b3].
  const auto ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const auto cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// The output of `size` channels: the sum of the corners of all samples, weighted by their shares. The sums stay in
// registers, several for each channel: one is a chain of additions in which each waits for the one before.
template <int size, typename C>
void gather(const C* slice, int64_t stride, const Samples<C>& samples, int64_t query, C* output) {
  using V = typename Vector<C>::Type;
  constexpr int vectors = size / Vector<C>::size;
  const int64_t n = samples.padded;
  const auto* const rows = samples.rows(query);
  const C* const shares = samples.shares(query);
  constexpr int sums = vectors >= 8 ? 1 : vectors >= 4 ? 2 : 4;
  V sum[sums][vectors] = {};
  for (int64_t i = 0; i < samples.count; ++i) {
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      const V* const v = reinterpret_cast<const V*>(slice + rows[corner * n + i] * stride);
      const C share = shares[corner * n + i];
#pragma GCC unroll 16
      for (int k = 0; k < vectors; ++k) sum[corner % sums][k] += share * v[k];
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < vectors; ++k) {
#pragma GCC unroll 4
    for (int other = 1; other < sums; ++other) sum[0][k] += sum[other][k];
    reinterpret_cast<V*>(output)[k] = sum[0][k];
  }
}

// Backward of `gather`: adds to the slice's gradient, and to the dot products of the corners with the gradient of the
// output.
template <int size, typename C>
void scatter(const C* slice, C* grad_slice, int64_t stride, const Samples<C>& samples, int64_t query,
             const C* grad_output) {
  using V = typename Vector<C>::Type;
  constexpr int vectors = size / Vector<C>::size;
  const int64_t n = samples.padded;
  V grad[vectors];
#pragma GCC unroll 16
  for (int k = 0; k < vectors; ++k) grad[k] = reinterpret_cast<const V*>(grad_output)[k];
  const auto* const rows = samples.rows(query);
  const C* const shares = samples.shares(query);
  C* const dots = samples.dot;
  for (int64_t i = 0; i < samples.count; ++i) {
    V dot[4];
#pragma GCC unroll 4
    for (int64_t corner = 0; corner < 4; ++corner) {
      const int64_t at = rows[corner * n + i] * stride;
      const V* const v = reinterpret_cast<const V*>(slice + at);
      V* const grad_v = reinterpret_cast<V*>(grad_slice + at);
      const C share = shares[corner * n + i];
      dot[corner] = grad[0] * v[0];
      grad_v[0] += share * grad[0];
#pragma GCC unroll 16
      for (int k = 1; k < vectors; ++k) {
        dot[corner] += grad[k] * v[k];
        grad_v[k] += share * grad[k];
      }
    }
    *reinterpret_cast<typename SimdVector<C, 4>::Type*>(dots + 4 * i) += sums_of<C>(dot);
  }
}

template <int64_t size>
struct Channels {
  static constexpr int value = size;
};

// Calls visit(first channel, number of channels as a type) for all channels of a packed row, in the widest steps.
template <typename Visit>
void in_steps(int64_t stride, const Visit& visit) {
  int64_t c = 0;
  for (; c + 2 * lanes <= stride; c += 2 * lanes) visit(c, Channels<2 * lanes>{});
  if (c < stride) visit(c, Channels<lanes>{});
}

// Whether vectors can access a row of the output itself, instead of a copy that is padded and of the compute type.
template <typename C, typename T>
bool in_place(const T*, const Slice<C>& slice) {
  return std::is_same_v<C, T> && slice.channels == slice.stride;
}

// Calls visit(query, i) for all queries, a few at a time; the i-th of them are located before. What the next few read
// is fetched meanwhile, query by query: the processor has few places for lines that it waits for.
template <typename C, typename Visit>
void located(const MsDeformAttn& args, const Samples<C>& samples, int64_t batch, int64_t head, const Visit& visit) {
  constexpr int64_t step = Samples<C>::queries;
  for (int64_t q = 0; q < args.queries; q += step) {
    const int64_t n = q + step < args.queries ? step : args.queries - q;
    for (int64_t i = 0; args.softmax && i < n; ++i) {
      samples.normalize(args, ((batch * args.queries + q + i) * args.heads + head) * samples.count, i);
    }
    for (int64_t i = 0; i < n; ++i) {
      samples.locate(args, ((batch * args.queries + q + i) * args.heads + head) * samples.count, i);
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = (batch * args.queries + q + i) * args.heads + head, later = at + step * args.heads;
      fetch(static_cast<const C*>(args.locations) + later * 2 * samples.count, 2 * samples.padded);
      fetch(static_cast<const C*>(args.weights) + later * samples.count, samples.padded);
      visit(at, i);
    }
  }
}

template <typename T>
void forward(const MsDeformAttn& args, T* output) {
  using C = Compute<T>;
  parallel_for(args.batch * args.heads, 1, [&](int64_t begin, int64_t end) {
    const Slice<C> slice(args);
    const Samples<C> samples(args);
    const Scratch<C> sum(slice.stride);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t batch = item / args.heads, head = item % args.heads;
      slice.pack(static_cast<const T*>(args.value) + (batch * args.pixels * args.heads + head) * args.channels);
      located(args, samples, batch, head, [&](int64_t at, int64_t i) {
        T* const out = output + at * args.channels;
        C* const row = in_place<C>(out, slice) ? reinterpret_cast<C*>(out) : sum;
        in_steps(slice.stride, [&](int64_t c, auto size) {
          gather<decltype(size)::value>(slice.data + c, slice.stride, samples, i, row + c);
        });
        if (row != sum) return;
        copy_row<C, T>(sum, args.channels, out);
      });
    }
  });
}

template <typename T>
void backward(const MsDeformAttn& args, const T* grad_output, T* grad_value, Compute<T>* grad_locations,
              Compute<T>* grad_weights) {
  using C = Compute<T>;
  parallel_for(args.batch * args.heads, 1, [&](int64_t begin, int64_t end) {
    const Slice<C> slice(args), grad_slice(args);
    const Samples<C> samples(args);
    const Scratch<C> grad(slice.stride);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t batch = item / args.heads, head = item % args.heads;
      const int64_t part = (batch * args.pixels * args.heads + head) * args.channels;
      slice.pack(static_cast<const T*>(args.value) + part);
      grad_slice.clear();
      located(args, samples, batch, head, [&](int64_t at, int64_t i) {
        const T* const grad_out = grad_output + at * args.channels;
        const int64_t later = at + Samples<C>::queries * args.heads;
        fetch(grad_output + later * args.channels, args.channels);
        fetch(grad_locations + later * 2 * samples.count, 2 * samples.count);
        fetch(grad_weights + later * samples.count, samples.count);
        const C* row = reinterpret_cast<const C*>(grad_out);
        if (!in_place<C>(grad_out, slice)) {
          copy_row<T, C>(grad_out, args.channels, grad);
          row = grad;
        }
        for (int64_t k = 0; k < 4 * samples.padded; ++k) samples.dot[k] = 0;
        in_steps(slice.stride, [&](int64_t c, auto size) {
          scatter<decltype(size)::value, C>(slice.data + c, grad_slice.data + c, slice.stride, samples, i, row + c);
        });
        samples.differentiate(args, at * samples.count, i, grad_locations, grad_weights);
      });
      grad_slice.unpack(grad_value + part);
    }
  });
}

void ms_deform_attn(const MsDeformAttn& args, void* output) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    forward<T>(args, static_cast<T*>(output));
  });
}

void ms_deform_attn_backward(const MsDeformAttn& args, const DeformSums&, const void* grad_output, void* grad_value,
                             void* grad_locations, void* grad_weights) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    backward<T>(args, static_cast<const T*>(grad_output), static_cast<T*>(grad_value),
                static_cast<Compute<T>*>(grad_locations), static_cast<Compute<T>*>(grad_weights));
  });
}

MFVIS_CPU_KERNEL(ms_deform_attn_kernel, ms_deform_attn)
MFVIS_CPU_KERNEL(ms_deform_attn_backward_kernel, ms_deform_attn_backward)

}  // namespace
}  // namespace mfvis
