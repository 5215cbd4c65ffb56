// The backward pass of a tile of 64 queries and one head, 4 points of one level at a time (2 of double). Neighbors
// sample the same pixels, so the corners of all samples are listed by pixel in shared memory:
//
//   slot     [32][32]   pixel y % 32, x % 32 of the level; the first pixel to come has it     pixel, head, length
//   corner   [4][256]   share, query, pixel, the next corner of the same pixel                16 bytes each
//   singles  [<= 1024]  corners whose slot has another pixel, each a list of its own: no sample is lost, wherever it
//                       lies, and no window has to be found
//   order    [<= 1024]  the lists by length, so that those next to each other take the same time
//   dots     [4][256]   of a corner's channels with the gradient of the output, a part for each lane of a group
//
//   one thread a sample: corners ─► lists ─► a group of 4 lanes a list: value of the pixel, once
//                                              for each corner: gradient of its query ─┬─► sum += share · gradient
//                                                                                      └─► dot = value · gradient
//                                            sum ─► global memory: once for a pixel, a head and a tile
//   one thread a sample: four dots ─► gradients of location and weight
//   softmax              the lanes of a query ─► before, its largest logit and sum; at the end, gradients of the logits
//
// A lane has 8 channels at a time (4 of double, or if vectors of 16 bytes are not aligned), so the lists of a head of
// 32 are walked once. No lane waits for another: each stores its part of a dot. Shared memory: 49 KiB.
#pragma once

#include "ms_deform_attn_sums.cuh"

namespace mfvis {
namespace {

// One thread a sample. A sample of double takes twice the memory, so half of the threads have one.
template <typename C>
constexpr int32_t points_at_once = sizeof(C) == sizeof(float) ? 4 : 2;
template <typename C>
constexpr int32_t samples_at_once = tile_queries * points_at_once<C>;
template <typename C>
constexpr int32_t max_corners = 4 * samples_at_once<C>;
static_assert(samples_at_once<float> == threads, "every thread has a sample");

constexpr uint32_t slots_across = 32, length_classes = 32;  // unsigned: a remainder is one instruction
constexpr int32_t max_slots = slots_across * slots_across, lanes_of_pixel = 4;

template <typename C>
struct alignas(16) ListedCorner {
  C share;         // weight times the bilinear one
  uint32_t query;  // counted from the tile's first one
  int32_t pixel;   // row of `value` within one batch item
  int32_t next;    // -1 at the end of the list
};

// Lists name a corner by its bytes from the first one, so that the walk along them needs no multiplication.
template <typename C>
struct PixelLists {
  ListedCorner<C> corner[max_corners<C>];
  C dots[max_corners<C>][lanes_of_pixel];
  // -1, -1 and 0 if free
  int32_t slot_pixel[max_slots], slot_head[max_slots], slot_length[max_slots];
  int16_t singles[max_corners<C>], order[max_corners<C>];
  int32_t single_count;
  int32_t of_length[length_classes];  // lists, the longest first

  __device__ __forceinline__ ListedCorner<C>& at(int32_t bytes) {
    return *reinterpret_cast<ListedCorner<C>*>(reinterpret_cast<char*>(corner) + bytes);
  }
  __device__ __forceinline__ C& dot_at(int32_t bytes) {
    static_assert(sizeof(ListedCorner<C>) == sizeof(dots[0]), "a corner is as large as its dots");
    return *reinterpret_cast<C*>(reinterpret_cast<char*>(dots) + bytes);
  }
};

template <typename C>
struct BackwardMemory {
  PixelLists<C> lists;
  Tiling tiling;
};

template <typename C>
__device__ void clear_lists(PixelLists<C>& lists) {
  for (int32_t i = threadIdx.x; i < max_slots; i += threads) {
    lists.slot_pixel[i] = lists.slot_head[i] = -1;
    lists.slot_length[i] = 0;
  }
  if (threadIdx.x < length_classes) lists.of_length[threadIdx.x] = 0;
  if (threadIdx.x == 0) lists.single_count = 0;
  __syncthreads();
}

// Called by the thread of a sample. query: counted from the tile's first one.
template <typename C>
__device__ __forceinline__ void list_corners(const Corners<C>& corners, C weight, uint32_t query,
                                             PixelLists<C>& lists) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int32_t pixel = corners.row[i];
    if (pixel < 0) continue;
    const int32_t corner =
        (i * samples_at_once<C> + static_cast<int32_t>(threadIdx.x)) * int32_t{sizeof(ListedCorner<C>)};
    const uint32_t y = static_cast<uint32_t>(corners.y + i / 2), x = static_cast<uint32_t>(corners.x + i % 2);
    const uint32_t slot = y % slots_across * slots_across + x % slots_across;
    const int32_t before = atomicCAS(&lists.slot_pixel[slot], -1, pixel);
    int32_t next = -1;
    if (before == -1 || before == pixel) {
      next = atomicExch(&lists.slot_head[slot], corner);
      atomicAdd(&lists.slot_length[slot], 1);
    } else {
      lists.singles[atomicAdd(&lists.single_count, 1)] = static_cast<int16_t>(corner);
    }
    lists.at(corner) = {weight * corners.share(i), query, pixel, next};
  }
}

// Sorts the lists by length and frees their slots. Called by the whole block; returns the number of lists.
template <typename C>
__device__ int32_t order_lists(PixelLists<C>& lists) {
  constexpr int slots_of_thread = max_slots / threads;
  const unsigned own = threadIdx.x, lane = own % 32;
  int32_t rank[slots_of_thread];  // among lists of the same class
  uint32_t length_class[slots_of_thread];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < slots_of_thread; ++i) {
    const uint32_t length = static_cast<uint32_t>(lists.slot_length[i * threads + own]);
    length_class[i] = length_classes - min(length, length_classes);
    if (length > 0) rank[i] = atomicAdd(&lists.of_length[length_class[i]], 1);
  }
  const int32_t singles = lists.single_count;
  __syncthreads();
  if (own == 0) lists.single_count = 0;
  const int32_t of_class = lists.of_length[lane];
  int32_t up_to = of_class;  // after the loop: with all longer lists
  for (unsigned step = 1; step < 32; step *= 2) {
    const int32_t other = __shfl_up_sync(whole_warp, up_to, step);
    up_to += lane >= step ? other : 0;
  }
  const int32_t count = __shfl_sync(whole_warp, up_to, 31);
#pragma unroll
  for (int i = 0; i < slots_of_thread; ++i) {
    const int32_t start = __shfl_sync(whole_warp, up_to - of_class, length_class[i] % length_classes);
    if (length_class[i] == length_classes) continue;
    const unsigned slot = i * threads + own;
    lists.order[start + rank[i]] = static_cast<int16_t>(lists.slot_head[slot]);
    lists.slot_pixel[slot] = lists.slot_head[slot] = -1;
    lists.slot_length[slot] = 0;
  }
  for (int32_t i = static_cast<int32_t>(own); i < singles; i += threads) lists.order[count + i] = lists.singles[i];
  __syncthreads();
  if (own < length_classes) lists.of_length[own] = 0;
  return count + singles;
}

// The gradient of a pixel's channels: a sum of floats, or of integers that does not depend on the order.
template <typename C, int V, bool fixed>
struct PixelSum {
  C sum[V] = {};

  __device__ __forceinline__ void add_product(int k, C share, C grad, C) { sum[k] += share * grad; }
  __device__ __forceinline__ void flush(const DeformSums& sums, int64_t at) {
    add(static_cast<C*>(sums.sums) + at, sum);
  }
};

template <typename C, int V>
struct PixelSum<C, V, true> {
  int64_t sum[V] = {};

  __device__ __forceinline__ void add_product(int k, C share, C grad, C scale) {
    sum[k] += llrint(share * grad * scale);
  }
  __device__ __forceinline__ void flush(const DeformSums& sums, int64_t at) {
    unsigned long long* const to = reinterpret_cast<unsigned long long*>(sums.in_fixed) + at;
#pragma unroll
    for (int k = 0; k < V; ++k) atomicAdd(to + k, static_cast<unsigned long long>(sum[k]));
  }
};

template <typename T>
__device__ __forceinline__ const T* behind(const T* from, uint64_t bytes) {
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(from) + bytes);
}

// Vectors of a lane at a time.
template <typename C, int V>
constexpr int held_vectors = V == 1 ? 4 : (sizeof(C) == sizeof(float) ? 8 : 4) / V;

// The channels from the vector `chunk` on, of `vectors`. value, grad: of the batch item and head; grad from the tile's
// first query on. sum_at: index of value in the sums.
template <typename T, int V, bool fixed>
__device__ __forceinline__ void sum_lists(PixelLists<Compute<T>>& lists, int32_t count, int32_t chunk, int32_t vectors,
                                          const T* value, const T* grad, uint32_t pixel_bytes, const DeformSums& sums,
                                          int64_t sum_at, Compute<T> scale) {
  using C = Compute<T>;
  using Vector = Channels<T, V>;
  constexpr int32_t held = held_vectors<C, V>, groups = threads / lanes_of_pixel;
  const int32_t lane = threadIdx.x % lanes_of_pixel, group = threadIdx.x / lanes_of_pixel;
  // Groups next to each other begin at other ends of a pixel's channels, which lie in other banks of L1.
  const bool forward = group % 2 == 0;
  const int32_t first = chunk + lane + (forward ? 0 : (held - 1) * lanes_of_pixel);
  const int32_t step = forward ? lanes_of_pixel : -lanes_of_pixel;
  const int32_t lane_bytes = lane * int32_t{sizeof(C)};
  bool has[held];
#pragma unroll
  for (int r = 0; r < held; ++r) has[r] = first + r * step < vectors;
  for (int32_t list = group; list < count; list += groups) {
    int32_t corner = lists.order[list];
    const uint32_t pixel = static_cast<uint32_t>(lists.at(corner).pixel);
    Vector values[held] = {};
    PixelSum<C, V, fixed> sum[held];
    const T* const from = behind(value + V * first, uint64_t{pixel} * pixel_bytes);
#pragma unroll
    for (int r = 0; r < held; ++r) {
      if (has[r]) values[r] = *reinterpret_cast<const Vector*>(from + V * r * step);
    }
    do {
      const ListedCorner<C> listed = lists.at(corner);
      const T* const grads = behind(grad + V * first, uint64_t{listed.query} * pixel_bytes);
      C dot = 0;
#pragma unroll
      for (int r = 0; r < held; ++r) {
        if (!has[r]) continue;
        const Vector grads_of_lane = *reinterpret_cast<const Vector*>(grads + V * r * step);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          sum[r].add_product(k, listed.share, load(grads_of_lane.at[k]), scale);
          dot += load(values[r].at[k]) * load(grads_of_lane.at[k]);
        }
      }
      lists.dot_at(corner + lane_bytes) = dot;
      corner = listed.next;
    } while (corner >= 0);
    const int64_t to = sum_at + int64_t{pixel} * static_cast<int64_t>(pixel_bytes / sizeof(T)) + V * first;
#pragma unroll
    for (int r = 0; r < held; ++r) {
      if (has[r]) sum[r].flush(sums, to + V * r * step);
    }
  }
}

// What the gradients of a sample need besides the dots of its corners.
template <typename C>
struct OwnSample {
  C right, below;      // as in Corners
  uint32_t has_pixel;  // bit i: corner i
  int64_t index;

  __device__ __forceinline__ OwnSample(const Corners<C>& corners, int64_t index_of_sample)
      : right(corners.right), below(corners.below), has_pixel(0), index(index_of_sample) {
#pragma unroll
    for (int i = 0; i < 4; ++i) has_pixel |= (corners.row[i] >= 0 ? 1u : 0u) << i;
  }

  // dots: of its corners, `samples_at_once` apart. is_first: nothing was written yet. Returns the gradient of the
  // weight.
  __device__ __forceinline__ C add_gradients(const C (*dots)[lanes_of_pixel], C weight, const Level& level,
                                             bool is_first, C* grad_locations, C* grad_weights) const {
    C dot[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const C(&parts)[lanes_of_pixel] = dots[i * samples_at_once<C>];
      dot[i] = (has_pixel >> i & 1u) != 0 ? (parts[0] + parts[1]) + (parts[2] + parts[3]) : C(0);
    }
    const C top = dot[0] + right * (dot[1] - dot[0]), bottom = dot[2] + right * (dot[3] - dot[2]);
    const C left = dot[0] + below * (dot[2] - dot[0]), far = dot[1] + below * (dot[3] - dot[1]);
    const C by_weight = top + below * (bottom - top);
    const C by_x = weight * static_cast<C>(level.width) * (far - left);
    const C by_y = weight * static_cast<C>(level.height) * (bottom - top);
    C *const of_weight = grad_weights + index, *const of_location = grad_locations + 2 * index;
    *of_weight = is_first ? by_weight : *of_weight + by_weight;
    of_location[0] = is_first ? by_x : of_location[0] + by_x;
    of_location[1] = is_first ? by_y : of_location[1] + by_y;
    return by_weight;
  }
};

// The softmax over the samples of a query and head. NaN in all weights if a logit is NaN or inf, or all are -inf.
template <typename C>
struct Softmax {
  C largest, inverse_sum;

  __device__ __forceinline__ C weight(C logit) const { return exponential(logit - largest) * inverse_sum; }
};

// For whole warps, as sum_over_lanes.
template <int32_t lanes, typename C>
__device__ __forceinline__ Softmax<C> softmax_of(const C* logits, int32_t samples) {
  const C largest = largest_over_lanes<lanes>(logits, samples);
  C sum = 0;
#pragma unroll 1
  for (int32_t s = threadIdx.x % lanes; s < samples; s += lanes) sum += exponential(logits[s] - largest);
  return {largest, 1 / sum_over_lanes<lanes>(sum)};
}

// Makes gradients of the logits from those of the weights. dot: of a lane's weights and their gradients. For whole
// warps, as sum_over_lanes.
template <int32_t lanes, typename C>
__device__ __forceinline__ void differentiate_softmax(const Softmax<C>& softmax, C dot, const C* logits,
                                                      int32_t samples, C* grads) {
  dot = sum_over_lanes<lanes>(dot);
#pragma unroll 1
  for (int32_t s = threadIdx.x % lanes; s < samples; s += lanes) {
    grads[s] = softmax.weight(logits[s]) * (grads[s] - dot);
  }
}

// Blocks per multiprocessor: before Hopper, most have shared memory for only two.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int backward_blocks = 2;
#else
constexpr int backward_blocks = 3;
#endif

// item = (batch item · heads + head) · tiles + tile.
template <typename T, int V, bool fixed, bool softmax>
__global__ void __launch_bounds__(threads, fixed || sizeof(T) == 8 ? 2 : backward_blocks)
    attend_backward(MsDeformAttn args, DeformSums sums, const T* grad_output, Compute<T>* grad_locations,
                    Compute<T>* grad_weights) {
  using C = Compute<T>;
  BackwardMemory<C>& memory = *shared_memory<BackwardMemory<C>>();
  PixelLists<C>& lists = memory.lists;
  Softmax<C>* const softmax_of_query = reinterpret_cast<Softmax<C>*>(&memory + 1);  // [tile_queries], with softmax
  clear_lists(lists);
  find_tiling(args, memory.tiling);
  const int32_t heads = static_cast<int32_t>(args.heads), levels = static_cast<int32_t>(args.levels);
  const int32_t points = static_cast<int32_t>(args.points), tiles = memory.tiling.first_tile[levels];
  const int32_t vectors = static_cast<int32_t>(args.channels / V);
  const uint32_t pixel_bytes = static_cast<uint32_t>(args.heads * args.channels * sizeof(T));
  const int32_t i = threadIdx.x / points_at_once<C>, point_of_thread = threadIdx.x % points_at_once<C>;
  for (int64_t item = blockIdx.x; item < args.batch * heads * tiles; item += gridDim.x) {
    const QueryTile tile(args, memory.tiling, static_cast<int32_t>(item % tiles));
    const int32_t head = static_cast<int32_t>(item / tiles % heads);
    const int64_t batch_item = item / tiles / heads, query = i < tile_queries ? tile.query(i) : -1;
    const int64_t first_sample =
        ((batch_item * args.queries + max<int64_t>(query, 0)) * heads + head) * levels * points;
    if constexpr (softmax) {
      const Softmax<C> result = softmax_of<points_at_once<C>>(static_cast<const C*>(args.weights) + first_sample,
                                                              query < 0 ? 0 : levels * points);
      if (query >= 0 && point_of_thread == 0) {
        softmax_of_query[i] = result;
        if (fixed && result.inverse_sum != result.inverse_sum) mark_as_nan(sums, args.batch, batch_item);
      }
      __syncwarp();
    }
    const C scale = fixed ? static_cast<C>(ldexp(1.0, exponent_of_fixed<C>(args, sums.largest, batch_item))) : C(1);
    const int64_t sum_at = (batch_item * args.pixels * heads + head) * args.channels;
    const T* const value = static_cast<const T*>(args.value) + sum_at;
    const T* const grad = grad_output + ((batch_item * args.queries + tile.first) * heads + head) * args.channels;
    C weight_dot = 0;  // of a lane's weights and their gradients
    for (int32_t l = 0; l < levels; ++l) {
      for (int32_t first_point = 0; first_point < points; first_point += points_at_once<C>) {
        const int32_t point = first_point + point_of_thread;
        const bool exists = query >= 0 && point < points;
        const int64_t index = first_sample + (l * points + (exists ? point : 0));
        const Corners<C> corners(memory.tiling.level[l], static_cast<const C*>(args.locations) + 2 * index);
        C weight = static_cast<const C*>(args.weights)[index];
        if constexpr (softmax) weight = exists ? softmax_of_query[i].weight(weight) : C(0);
        if (exists) list_corners(corners, weight, static_cast<uint32_t>(query - tile.first), lists);
        const OwnSample<C> own(corners, index);
        const int32_t count = order_lists(lists);
        for (int32_t chunk = 0; chunk < vectors; chunk += lanes_of_pixel * held_vectors<C, V>) {
          if (chunk > 0) __syncthreads();
          sum_lists<T, V, fixed>(lists, count, chunk, vectors, value, grad, pixel_bytes, sums, sum_at, scale);
          __syncthreads();
          if (!exists) continue;
          const C by_weight = own.add_gradients(lists.dots + threadIdx.x, weight, memory.tiling.level[l], chunk == 0,
                                                grad_locations, grad_weights);
          if (softmax) weight_dot += weight * by_weight;
        }
      }
    }
    if constexpr (softmax) {
      // After the barrier, gradients of other lanes can be read, and the next item's softmax may be written.
      const Softmax<C> of_query = softmax_of_query[i % tile_queries];
      __syncthreads();
      differentiate_softmax<points_at_once<C>>(of_query, weight_dot, static_cast<const C*>(args.weights) + first_sample,
                                               query < 0 ? 0 : levels * points, grad_weights + first_sample);
    }
  }
}

}  // namespace
}  // namespace mfvis
