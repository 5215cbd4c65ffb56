// Forward, first launch: every logit is read once, 16 bytes per lane, by independent warps. A warp processes one band
// of 32 rows in one tile of columns:
//
//   frame     tile 0 (512 bytes a row)   tile 1        a lane keeps the maxima of its columns in registers; a row's
//   row band 0    warp                       warp      maximum is reduced over the lanes by shuffles. Results:
//       band 1    warp                       warp        column peaks  [bands, W]
//       ...                                              row peaks     [H, tiles]    the maximum and its first position
//
// Second launch: one block per frame reduces the peaks, which are one twelfth of the logits' bytes, converts them to
// probabilities, sums them, and replaces the probabilities by gradients. The last block to finish adds the frames'
// losses in order. Backward: one block per frame adds H + W values to the gradient, columns first, then rows. No
// atomics on floating-point values, so results are repeatable.
//
// Floor: memory bandwidth. The forward pass reads N · T · H · W logits, the backward pass writes as many.
#include "../../common/cuda.h"
#include "../../common/math.h"
#include "../box_projection_loss.h"

namespace mfvis {
namespace {

constexpr int warps = 8, threads = 32 * warps;
constexpr int warps_of_frame = 16, threads_of_frame = 32 * warps_of_frame;  // for launches with one block per frame

template <typename C>
struct Peak {
  C value;
  int32_t at;
};

// NaN is above everything, so that a frame that contains one has a NaN loss.
template <typename C>
__device__ __forceinline__ bool is_above(C a, C b) {
  return a > b || a != a;
}
// Ties go to the first.
template <typename C>
__device__ __forceinline__ Peak<C> higher(const Peak<C>& a, const Peak<C>& b) {
  const bool equal = a.value == b.value;
  return (equal ? b.at < a.at : is_above(b.value, a.value)) ? b : a;
}
template <typename C>
__device__ __forceinline__ Peak<C> highest_of_warp(Peak<C> peak) {
  for (int step = 16; step > 0; step /= 2) {
    peak = higher(peak, {__shfl_xor_sync(whole_warp, peak.value, step), __shfl_xor_sync(whole_warp, peak.at, step)});
  }
  return peak;
}

template <typename C>
struct PeaksOfFrame {
  C* value;
  int32_t* position;

  __device__ __forceinline__ PeaksOfFrame(const BoxProjection& args, const BoxPeaks& peaks, int64_t item) {
    const int64_t first = item * (peaks.bands * args.width + args.height * peaks.tiles);
    value = static_cast<C*>(peaks.value) + first;
    position = peaks.position + first;
  }
  __device__ __forceinline__ void put(int64_t i, const Peak<C>& peak) const {
    value[i] = peak.value;
    position[i] = peak.at;
  }
  // The highest of `count` peaks that lie `step` apart.
  __device__ __forceinline__ Peak<C> highest(int64_t first, int64_t count, int64_t step) const {
    Peak<C> peak{value[first], position[first]};
    for (int64_t i = 1; i < count; ++i) peak = higher(peak, {value[first + i * step], position[first + i * step]});
    return peak;
  }
};

// The maximum over the lanes, known to all of them. There must be no NaN.
template <typename C>
__device__ __forceinline__ C largest_of_warp(C value) {
  for (int step = 16; step > 0; step /= 2) {
    const C other = __shfl_xor_sync(whole_warp, value, step);
    value = other > value ? other : value;
  }
  return value;
}

// aligned: a lane's columns are adjacent and read in one load. Else they lie 32 apart, so that the warp reads adjacent
// columns.
template <typename T, bool aligned>
__global__ void __launch_bounds__(threads, 2) find_peaks(BoxProjection args, BoxPeaks peaks) {
  using C = Compute<T>;
  constexpr int per_lane = Chunk<T>::size, at_once = 4;
  const int lane = threadIdx.x % 32;
  const int32_t height = static_cast<int32_t>(args.height), width = static_cast<int32_t>(args.width);
  const int64_t count = args.instances * args.frames * peaks.bands * peaks.tiles;
  const C lowest = -static_cast<C>(INFINITY);
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32; unit < count;
       unit += static_cast<int64_t>(gridDim.x) * warps) {
    const int64_t tile = unit % peaks.tiles, band = unit / peaks.tiles % peaks.bands;
    const int64_t item = unit / peaks.tiles / peaks.bands;
    if (!ever_present(args, item / args.frames)) continue;
    const PeaksOfFrame<C> found(args, peaks, item);
    const int32_t first = static_cast<int32_t>(tile) * 32 * per_lane + (aligned ? lane * per_lane : lane);
    const int32_t begin = static_cast<int32_t>(band * rows_of_band);
    const int32_t end = min(begin + static_cast<int32_t>(rows_of_band), height);
    const auto column_of = [=](int k) { return aligned ? first + k : first + 32 * k; };
    const T* const frame = static_cast<const T*>(args.logits) + item * args.height * args.width;

    Peak<C> column[per_lane];
#pragma unroll
    for (int k = 0; k < per_lane; ++k) column[k] = {lowest, begin};
    for (int32_t y = begin; y < end; y += at_once) {
      Chunk<T> rows[at_once];
#pragma unroll
      for (int r = 0; r < at_once; ++r) {
        if (y + r >= end) break;
        const T* const row = frame + static_cast<int64_t>(y + r) * width;
        if constexpr (aligned) {
          if (first < width) rows[r] = *reinterpret_cast<const Chunk<T>*>(row + first);
        } else {
#pragma unroll
          for (int k = 0; k < per_lane; ++k) {
            if (column_of(k) < width) rows[r].at[k] = row[column_of(k)];
          }
        }
      }
      C values[at_once][per_lane];
      bool has_nan = false;
#pragma unroll
      for (int r = 0; r < at_once; ++r) {
#pragma unroll
        for (int k = 0; k < per_lane; ++k) {
          // Elements outside the frame are below all others: in no column, and in a row behind its first pixel.
          values[r][k] = y + r < end && column_of(k) < width ? static_cast<C>(load(rows[r].at[k])) : lowest;
          has_nan = has_nan || values[r][k] != values[r][k];
        }
      }
      const bool any_nan = __any_sync(whole_warp, has_nan);
#pragma unroll
      for (int r = 0; r < at_once; ++r) {
        if (y + r >= end) break;
        const int64_t of_row = peaks.bands * width + (y + r) * peaks.tiles + tile;
        if (any_nan) {
          Peak<C> row{lowest, first < width ? first : INT32_MAX};
#pragma unroll
          for (int k = 0; k < per_lane; ++k) {
            if (is_above(values[r][k], row.value)) row = {values[r][k], column_of(k)};
            if (is_above(values[r][k], column[k].value)) column[k] = {values[r][k], y + r};
          }
          row = highest_of_warp(row);
          if (lane == 0) found.put(of_row, row);
          continue;
        }
        C largest = lowest;
#pragma unroll
        for (int k = 0; k < per_lane; ++k) {
          largest = values[r][k] > largest ? values[r][k] : largest;
          if (values[r][k] > column[k].value) column[k] = {values[r][k], y + r};
        }
        largest = largest_of_warp(largest);
        // The lane with the first position writes it. Columns are ordered by lane, or else by k first.
        int32_t at = INT32_MAX;
        unsigned lanes = 0;
#pragma unroll
        for (int k = per_lane - 1; k >= 0; --k) {
          const bool here = values[r][k] == largest;
          if (here) at = column_of(k);
          if constexpr (!aligned) {
            const unsigned of_k = __ballot_sync(whole_warp, here);
            lanes = of_k != 0 ? of_k : lanes;
          }
        }
        if constexpr (aligned) lanes = __ballot_sync(whole_warp, at != INT32_MAX);
        if (lane == __ffs(static_cast<int>(lanes)) - 1) found.put(of_row, {largest, at});
      }
    }
#pragma unroll
    for (int k = 0; k < per_lane; ++k) {
      if (column_of(k) < width) found.put(band * width + column_of(k), column[k]);
    }
  }
}

// The sum over the block for all of its threads, in a fixed order. shared: one value per warp.
__device__ __forceinline__ double sum_over_block(double value, double* shared) {
  value = sum_over_warp(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < warps_of_frame; ++w) sum += shared[w];
  return sum;
}

// The dice loss of one axis of a frame, for all threads of the block.
template <typename C>
__device__ __forceinline__ Dice dice_of(const C* p, int64_t size, Span span, double* shared) {
  double squares = 0, inside = 0;
  for (int64_t i = threadIdx.x; i < size; i += threads_of_frame) {
    const double value = p[i];
    squares += value * value;
    inside += span.begin <= i && i < span.end ? value : 0;
  }
  inside = sum_over_block(inside, shared);
  return Dice::of(inside, sum_over_block(squares, shared), span);
}

template <typename C>
__global__ void __launch_bounds__(threads_of_frame, 1)
    sum_up(BoxProjection args, BoxMaxima kept, BoxPeaks peaks, C* loss, double* per_frame) {
  double* const shared = shared_memory<double>();  // [warps_of_frame], then whether this block is the last one
  const int64_t items = args.instances * args.frames, height = args.height, width = args.width;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    double of_frame = 0;
    if (ever_present(args, item / args.frames)) {
      const PeaksOfFrame<C> found(args, peaks, item);
      C* const rows = static_cast<C*>(kept.slope) + item * (height + width);
      int32_t* const position = kept.position + item * (height + width);
      for (int64_t i = threadIdx.x; i < height + width; i += threads_of_frame) {
        const Peak<C> peak = i < height ? found.highest(peaks.bands * width + i * peaks.tiles, peaks.tiles, 1)
                                        : found.highest(i - height, peaks.bands, width);
        rows[i] = peak.value != peak.value ? peak.value : sigmoid(peak.value);
        position[i] = peak.at;
      }
      __syncthreads();
      const FrameSpans spans = spans_of(args.boxes + 4 * item, height, width);
      const Dice on_y = dice_of(rows, height, spans.y, shared), on_x = dice_of(rows + height, width, spans.x, shared);
      of_frame = on_x.loss + on_y.loss;
      __syncthreads();  // All threads have read the probabilities.
      const auto differentiate = [&](C* of_axis, int64_t size, const Dice& dice, Span span) {
        for (int64_t i = threadIdx.x; i < size; i += threads_of_frame) {
          const double by_logit = dice.by_logit(of_axis[i], span.begin <= i && i < span.end);
          of_axis[i] = static_cast<C>(by_logit / static_cast<double>(items));
        }
      };
      differentiate(rows, height, on_y, spans.y);
      differentiate(rows + height, width, on_x, spans.x);
    }
    if (threadIdx.x == 0) per_frame[item] = of_frame;
  }

  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // The block's result is visible before its count.
    shared[warps_of_frame] = atomicAdd(peaks.finished, 1) + 1 == static_cast<int32_t>(gridDim.x);
  }
  __syncthreads();
  if (shared[warps_of_frame] == 0) return;
  __threadfence();
  const volatile double* const losses = per_frame;
  double sum = 0;
  for (int64_t item = threadIdx.x; item < items; item += threads_of_frame) sum += losses[item];
  sum = sum_over_block(sum, shared);
  if (threadIdx.x == 0) *loss = static_cast<C>(sum / static_cast<double>(items));
}

template <typename T>
__global__ void __launch_bounds__(threads_of_frame, 1)
    scatter_gradient(BoxProjection args, BoxMaxima kept, const Compute<T>* grad_loss, T* grad_logits) {
  const int64_t items = args.instances * args.frames;
  const int32_t height = static_cast<int32_t>(args.height), width = static_cast<int32_t>(args.width);
  const Compute<T> scale = *grad_loss;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    T* const grad = grad_logits + item * args.height * args.width;
    const Compute<T>* const rows = static_cast<const Compute<T>*>(kept.slope) + item * (args.height + args.width);
    const int32_t* const position = kept.position + item * (args.height + args.width);
    for (int32_t x = threadIdx.x; x < width; x += threads_of_frame) {
      const int32_t y = position[height + x];
      if (y < 0 || y >= height) continue;
      T* const to = grad + static_cast<int64_t>(y) * width + x;
      store(load(*to) + scale * rows[height + x], to);
    }
    __syncthreads();  // A pixel may also be the maximum of its row.
    for (int32_t y = threadIdx.x; y < height; y += threads_of_frame) {
      const int32_t x = position[y];
      if (x < 0 || x >= width) continue;
      T* const to = grad + static_cast<int64_t>(y) * width + x;
      store(load(*to) + scale * rows[y], to);
    }
  }
}

const char* const op = "box_projection_loss";

void box_projection_terms(const BoxProjection& args, const BoxMaxima& kept, const BoxPeaks& peaks, void* loss,
                          double* per_frame) {
  const int64_t items = args.instances * args.frames;
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    const bool aligned = reinterpret_cast<uintptr_t>(args.logits) % 16 == 0 && args.width % Chunk<T>::size == 0;
    launch(op, aligned ? find_peaks<T, true> : find_peaks<T, false>, grid_for(items * peaks.bands * peaks.tiles, warps),
           threads, 0, args, peaks);
    launch(op, sum_up<C>, grid_for(items, 1), threads_of_frame, (warps_of_frame + 1) * sizeof(double), args, kept,
           peaks, static_cast<C*>(loss), per_frame);
  });
}

void box_projection_terms_backward(const BoxProjection& args, const BoxMaxima& kept, const void* grad_loss,
                                   void* grad_logits) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    launch(op, scatter_gradient<T>, grid_for(args.instances * args.frames, 1), threads_of_frame, 0, args, kept,
           static_cast<const Compute<T>*>(grad_loss), static_cast<T*>(grad_logits));
  });
}

MFVIS_CUDA_KERNEL(box_projection_terms_kernel, box_projection_terms)
MFVIS_CUDA_KERNEL(box_projection_terms_backward_kernel, box_projection_terms_backward)

}  // namespace
}  // namespace mfvis
