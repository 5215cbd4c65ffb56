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

#include "../../common/parallel.h"
#include "../../common/scratch.h"
#include "../../common/vector.h"

namespace mfvis {
namespace {

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
      C* const __restrict row = data + s * stride;
      for (int64_t c = 0; c < channels; ++c) row[c] = load(tensor[s * gap + c]);
    }
  }
  template <typename T>
  void unpack(T* tensor) const {
    for (int64_t s = 0; s < pixels; ++s) {
      const C* const __restrict row = data + s * stride;
      for (int64_t c = 0; c < channels; ++c) store(row[c], tensor + s * gap + c);
    }
  }
  void clear() const {
    for (int64_t i = 0; i < (pixels + 1) * stride; ++i) data[i] = 0;
  }

  static constexpr uintptr_t line = 64 / sizeof(C);

  int64_t pixels, channels, gap, stride;
  Scratch<C> memory;
  C* data;  // cache-line aligned: rows that span two lines take twice the time
};

// The samples of one query and head over all levels and points. Corners are ordered top left, top right, bottom left,
// bottom right.
template <typename C>
struct Samples {
  explicit Samples(const MsDeformAttn& args)
      : count(args.levels * args.points),
        outside(static_cast<int32_t>(args.pixels)),
        height(count),
        width(count),
        start(count),
        right(count),
        below(count),
        row(4 * count),
        share(4 * count),
        dot(4 * count) {
    for (int64_t i = 0; i < count; ++i) {
      const DeformLevel& level = args.level[i / args.points];
      height[i] = static_cast<int32_t>(level.height);
      width[i] = static_cast<int32_t>(level.width);
      start[i] = static_cast<int32_t>(level.start);
    }
  }

  // The corners' rows in a slice, and their shares of the output.
  void locate(const C* __restrict location, const C* __restrict weight) const {
    const int32_t n = static_cast<int32_t>(count), none = outside;
    const int32_t* const __restrict heights = height;
    const int32_t* const __restrict widths = width;
    const int32_t* const __restrict starts = start;
    int32_t* const __restrict top_left = row;
    int32_t* const __restrict top_right = row + n;
    int32_t* const __restrict bottom_left = row + 2 * n;
    int32_t* const __restrict bottom_right = row + 3 * n;
    C* const __restrict shares = share;
    C* const __restrict rights = right;
    C* const __restrict bottoms = below;
#pragma omp simd
    for (int32_t i = 0; i < n; ++i) {
      const int32_t h = heights[i], w = widths[i];
      const C x_at = in_pixels(location[2 * i], w), y_at = in_pixels(location[2 * i + 1], h);
      const C x_floor = floor_of(x_at), y_floor = floor_of(y_at);
      const C to_right = x_at - x_floor, to_bottom = y_at - y_floor;
      const int32_t x = pixel_of(x_floor, w), y = pixel_of(y_floor, h);
      const bool is_left = (x >= 0) & (x < w), is_right = (x >= -1) & (x + 1 < w);
      const bool is_top = (y >= 0) & (y < h), is_bottom = (y >= -1) & (y + 1 < h);
      const int32_t at = starts[i] + y * w + x;
      top_left[i] = is_top & is_left ? at : none;
      top_right[i] = is_top & is_right ? at + 1 : none;
      bottom_left[i] = is_bottom & is_left ? at + w : none;
      bottom_right[i] = is_bottom & is_right ? at + w + 1 : none;
      const C top = weight[i] * (1 - to_bottom), bottom = weight[i] * to_bottom;
      shares[i] = top * (1 - to_right);
      shares[n + i] = top * to_right;
      shares[2 * n + i] = bottom * (1 - to_right);
      shares[3 * n + i] = bottom * to_right;
      rights[i] = to_right;
      bottoms[i] = to_bottom;
    }
  }

  // The gradients of locations and weights from those of the four corners' shares, `dot`.
  void differentiate(const C* __restrict weight, C* __restrict grad_location, C* __restrict grad_weight) const {
    const int32_t n = static_cast<int32_t>(count);
    const C* const __restrict dots = dot;
#pragma omp simd
    for (int32_t i = 0; i < n; ++i) {
      const C x = right[i], y = below[i];
      const C dot0 = dots[4 * i], dot1 = dots[4 * i + 1], dot2 = dots[4 * i + 2], dot3 = dots[4 * i + 3];
      const C top = dot0 + x * (dot1 - dot0), bottom = dot2 + x * (dot3 - dot2);
      const C left = dot0 + y * (dot2 - dot0), far = dot1 + y * (dot3 - dot1);
      grad_weight[i] = top + y * (bottom - top);
      grad_location[2 * i] = weight[i] * static_cast<C>(width[i]) * (far - left);
      grad_location[2 * i + 1] = weight[i] * static_cast<C>(height[i]) * (bottom - top);
    }
  }

  int64_t count;
  int32_t outside;
  Scratch<int32_t> height, width, start;
  Scratch<C> right, below;
  Scratch<int32_t> row;  // [4, count]
  Scratch<C> share;      // [4, count], including the weight
  Scratch<C> dot;        // [count, 4]
};

// Adds the halves of a vector until four elements are left.
template <typename C, int count>
typename SimdVector<C, 4>::Type fold(const typename SimdVector<C, count>::Type& vector) {
  if constexpr (count == 4) {
    return vector;
  } else {
    using Half = typename SimdVector<C, count / 2>::Type;
    const Half* const half = reinterpret_cast<const Half*>(&vector);
    return fold<C, count / 2>(half[0] + half[1]);
  }
}

// The sums of four vectors.
template <typename C>
typename SimdVector<C, 4>::Type sums_of(const typename Vector<C>::Type (&vectors)[4]) {
  constexpr int size = Vector<C>::size;
  typename SimdVector<C, 4>::Type sums;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto four = fold<C, size>(vectors[i]);
    sums[i] = (four[0] + four[2]) + (four[1] + four[3]);
  }
  return sums;
}

// The output of `size` channels: the sum of the corners of all samples, weighted by their shares. The sums stay in
// registers.
template <int size, typename C>
void gather(const C* slice, int64_t stride, const Samples<C>& samples, C* output) {
  using V = typename Vector<C>::Type;
  constexpr int vectors = size / Vector<C>::size;
  const int64_t n = samples.count;
  const int32_t* const rows = samples.row;
  const C* const shares = samples.share;
  V sum[vectors] = {};
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 4
    for (int64_t corner = i; corner < 4 * n; corner += n) {
      const V* const v = reinterpret_cast<const V*>(slice + rows[corner] * stride);
      const C share = shares[corner];
#pragma GCC unroll 16
      for (int k = 0; k < vectors; ++k) sum[k] += share * v[k];
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < vectors; ++k) reinterpret_cast<V*>(output)[k] = sum[k];
}

// Backward of `gather`: adds to the slice's gradient, and to the dot products of the corners with the gradient of the
// output.
template <int size, typename C>
void scatter(const C* slice, C* grad_slice, int64_t stride, const Samples<C>& samples, const C* grad_output) {
  using V = typename Vector<C>::Type;
  constexpr int vectors = size / Vector<C>::size;
  const int64_t n = samples.count;
  V grad[vectors];
#pragma GCC unroll 16
  for (int k = 0; k < vectors; ++k) grad[k] = reinterpret_cast<const V*>(grad_output)[k];
  const int32_t* const rows = samples.row;
  const C* const shares = samples.share;
  C* const dots = samples.dot;
  for (int64_t i = 0; i < n; ++i) {
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

constexpr int64_t ahead = 4;  // queries

// Prefetches what a later query reads. A head's values lie too far apart for the hardware prefetcher.
template <typename C>
void fetch(const C* numbers, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(C))) __builtin_prefetch(numbers + i);
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
      for (int64_t q = 0; q < args.queries; ++q) {
        const int64_t at = (batch * args.queries + q) * args.heads + head;
        const C* const location = static_cast<const C*>(args.locations) + at * 2 * samples.count;
        const C* const weight = static_cast<const C*>(args.weights) + at * samples.count;
        fetch(location + ahead * args.heads * 2 * samples.count, 2 * samples.count);
        fetch(weight + ahead * args.heads * samples.count, samples.count);
        samples.locate(location, weight);
        in_steps(slice.stride, [&](int64_t c, auto size) {
          gather<decltype(size)::value>(slice.data + c, slice.stride, samples, sum + c);
        });
        for (int64_t c = 0; c < args.channels; ++c) store(sum[c], output + at * args.channels + c);
      }
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
      const int64_t first = (batch * args.pixels * args.heads + head) * args.channels;
      slice.pack(static_cast<const T*>(args.value) + first);
      grad_slice.clear();
      for (int64_t q = 0; q < args.queries; ++q) {
        const int64_t at = (batch * args.queries + q) * args.heads + head;
        const C* const location = static_cast<const C*>(args.locations) + at * 2 * samples.count;
        const C* const weight = static_cast<const C*>(args.weights) + at * samples.count;
        fetch(location + ahead * args.heads * 2 * samples.count, 2 * samples.count);
        fetch(weight + ahead * args.heads * samples.count, samples.count);
        fetch(grad_output + (at + ahead * args.heads) * args.channels, args.channels);
        samples.locate(location, weight);
        for (int64_t c = 0; c < args.channels; ++c) grad[c] = load(grad_output[at * args.channels + c]);
        for (int64_t i = 0; i < 4 * samples.count; ++i) samples.dot[i] = 0;
        in_steps(slice.stride, [&](int64_t c, auto size) {
          scatter<decltype(size)::value, C>(slice.data + c, grad_slice.data + c, slice.stride, samples, grad + c);
        });
        samples.differentiate(weight, grad_locations + at * 2 * samples.count, grad_weights + at * samples.count);
      }
      grad_slice.unpack(grad_value + first);
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
