// The backward pass of a tile of 64 queries and one head, 4 points of one level at a time. Neighbors sample the same
// pixels, so the corners of all samples are listed by pixel in shared memory:
//
//   slot     [32][32]   pixel y % 32, x % 32 of the level; the first pixel to come has it     pixel, head, length
//   corner   [4][256]   share, query, pixel, the next corner of the same pixel                16 bytes each
//   singles  [<= 1024]  corners whose slot has another pixel, each a list of its own: no sample is lost, wherever it
//                       lies, and no window has to be found
//   order    [<= 1024]  the lists by length, so that those next to each other take the same time
//   dot      [4][256]   of a corner's channels with the gradient of the output
//
//   one thread a sample: corners ─► lists ─► one group of lanes a list: value of the pixel, once
//                                              for each corner: gradient of its query ─┬─► sum += share · gradient
//                                                                                      └─► dot = value · gradient
//                                            sum ─► global memory: once for a pixel, a head and a tile
//   one thread a sample: four dots ─► gradients of location and weight
//
// A lane has 8 channels at a time (4 of double; 1 if vectors of 16 bytes are not aligned), so the 32 channels of a head
// take 4 lanes. Shared memory: 37 KiB, 57 for double.
#pragma once

#include "ms_deform_attn_sums.cuh"

namespace mfvis {
namespace {

constexpr int32_t points_at_once = threads / tile_queries, max_corners = 4 * threads;
constexpr int32_t slots_across = 32, max_slots = slots_across * slots_across, length_classes = 32;

// The same threads write samples and find corners.
static_assert(points_at_once * tile_queries == threads, "one thread a sample");

template <typename C>
struct alignas(16) ListedCorner {
  C share;         // weight times the bilinear one
  uint32_t query;  // counted from the tile's first one
  int32_t pixel;   // row of `value` within one batch item
  int32_t next;    // -1 at the end of the list
};

template <typename C>
struct PixelLists {
  ListedCorner<C> corner[max_corners];
  C dot[max_corners];
  // -1, -1 and 0 if free
  int32_t slot_pixel[max_slots], slot_head[max_slots], slot_length[max_slots];
  int16_t singles[max_corners], order[max_corners];
  int32_t single_count;
  int32_t of_length[length_classes];  // lists, the longest first
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
    const int32_t corner = i * threads + static_cast<int32_t>(threadIdx.x);
    const int32_t slot = (corners.y + i / 2) % slots_across * slots_across + (corners.x + i % 2) % slots_across;
    const int32_t before = atomicCAS(&lists.slot_pixel[slot], -1, pixel);
    int32_t next = -1;
    if (before == -1 || before == pixel) {
      next = atomicExch(&lists.slot_head[slot], corner);
      atomicAdd(&lists.slot_length[slot], 1);
    } else {
      lists.singles[atomicAdd(&lists.single_count, 1)] = static_cast<int16_t>(corner);
    }
    lists.corner[corner] = {weight * corners.share(i), query, pixel, next};
  }
}

// Sorts the lists by length and frees their slots. Called by the whole block; returns the number of lists.
template <typename C>
__device__ int32_t order_lists(PixelLists<C>& lists) {
  constexpr int slots_of_thread = max_slots / threads;
  const int own = threadIdx.x, lane = own % 32;
  int32_t rank[slots_of_thread], length_class[slots_of_thread];  // the rank among lists of the same class
  __syncthreads();
#pragma unroll
  for (int i = 0; i < slots_of_thread; ++i) {
    const int32_t length = lists.slot_length[i * threads + own];
    length_class[i] = length_classes - min(length, length_classes);
    if (length > 0) rank[i] = atomicAdd(&lists.of_length[length_class[i]], 1);
  }
  const int32_t singles = lists.single_count;
  __syncthreads();
  if (own == 0) lists.single_count = 0;
  const int32_t of_class = lists.of_length[lane];
  int32_t up_to = of_class;  // after the loop: with all longer lists
  for (int step = 1; step < 32; step *= 2) {
    const int32_t other = __shfl_up_sync(whole_warp, up_to, step);
    up_to += lane >= step ? other : 0;
  }
  const int32_t count = __shfl_sync(whole_warp, up_to, 31);
#pragma unroll
  for (int i = 0; i < slots_of_thread; ++i) {
    const int32_t start = __shfl_sync(whole_warp, up_to - of_class, length_class[i] % length_classes);
    if (length_class[i] == length_classes) continue;
    const int32_t slot = i * threads + own;
    lists.order[start + rank[i]] = static_cast<int16_t>(lists.slot_head[slot]);
    lists.slot_pixel[slot] = lists.slot_head[slot] = -1;
    lists.slot_length[slot] = 0;
  }
  for (int32_t i = own; i < singles; i += threads) lists.order[count + i] = lists.singles[i];
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

// Vectors of channels of a pixel and head in which a group of lanes has its share.
template <int V>
struct Lanes {
  // A power of two from 4 up to a warp. Lanes of a warp stay together.
  int count, lane, group;
  int32_t vectors;

  static constexpr int held = V == 1 || V == 8 ? 1 : 2;  // vectors of a lane at a time

  __device__ __forceinline__ Lanes(int lanes, int32_t vectors_of_head)
      : count(lanes), lane(threadIdx.x % lanes), group(threadIdx.x / lanes), vectors(vectors_of_head) {}

  // The lane's r-th vector. Groups next to each other begin with other halves of a pixel's channels, which lie in other
  // banks of L1.
  __device__ __forceinline__ int32_t vector(int32_t first, int r) const {
    return group % 2 == 0 ? first + lane + r * count : first + lane + (held - 1 - r) * count;
  }
};

// Called by all lanes of a warp.
template <typename C>
__device__ __forceinline__ C sum_over_lanes(C value, int lanes) {
  for (int step = 4; step < lanes; step *= 2) value += __shfl_xor_sync(whole_warp, value, step);
  value += __shfl_xor_sync(whole_warp, value, 2);
  return value + __shfl_xor_sync(whole_warp, value, 1);
}

// The channels from the vector `chunk` on. value, grad: of the batch item and head; grad from the tile's first query
// on. sum_at: index of value in the sums.
template <typename T, int V, bool fixed>
__device__ __forceinline__ void sum_lists(PixelLists<Compute<T>>& lists, int32_t count, const Lanes<V>& lanes,
                                          int32_t chunk, const T* value, const T* grad, uint32_t pixel_bytes,
                                          const DeformSums& sums, int64_t sum_at, Compute<T> scale) {
  using C = Compute<T>;
  using Vector = Channels<T, V>;
  constexpr int held = Lanes<V>::held;
  const int32_t groups = threads / lanes.count;
  const int32_t channel = V * lanes.vector(chunk, 0);
  const int32_t step = held > 1 ? V * (lanes.vector(chunk, held - 1) - lanes.vector(chunk, 0)) : 0;
  bool has[held];
#pragma unroll
  for (int r = 0; r < held; ++r) has[r] = lanes.vector(chunk, r) < lanes.vectors;
  for (int32_t first = 0; first < count; first += groups) {
    int32_t corner = first + lanes.group < count ? lists.order[first + lanes.group] : -1;
    const bool exists = corner >= 0;
    const uint32_t pixel = exists ? static_cast<uint32_t>(lists.corner[corner].pixel) : 0;
    Vector values[held] = {};
    PixelSum<C, V, fixed> sum[held];
    const T* const from = behind(value + channel, uint64_t{pixel} * pixel_bytes);
#pragma unroll
    for (int r = 0; r < held; ++r) {
      if (exists && has[r]) values[r] = *reinterpret_cast<const Vector*>(from + r * step);
    }
    while (__any_sync(whole_warp, corner >= 0)) {
      C dot = 0;
      const int32_t current = corner;
      if (current >= 0) {
        const ListedCorner<C> listed = lists.corner[current];
        corner = listed.next;
        const T* const grads = behind(grad + channel, uint64_t{listed.query} * pixel_bytes);
#pragma unroll
        for (int r = 0; r < held; ++r) {
          if (!has[r]) continue;
          const Vector grads_of_lane = *reinterpret_cast<const Vector*>(grads + r * step);
#pragma unroll
          for (int k = 0; k < V; ++k) {
            sum[r].add_product(k, listed.share, load(grads_of_lane.at[k]), scale);
            dot += load(values[r].at[k]) * load(grads_of_lane.at[k]);
          }
        }
      }
      dot = sum_over_lanes(dot, lanes.count);
      if (current >= 0 && lanes.lane == 0) lists.dot[current] = dot;
    }
    const int64_t sum_of_pixel = sum_at + int64_t{pixel} * static_cast<int64_t>(pixel_bytes / sizeof(T)) + channel;
#pragma unroll
    for (int r = 0; r < held; ++r) {
      if (exists && has[r]) sum[r].flush(sums, sum_of_pixel + r * step);
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

  // dots: of its corners, `threads` apart. is_first: nothing was written yet.
  __device__ __forceinline__ void add_gradients(const C* dots, C weight, const Level& level, bool is_first,
                                                C* grad_locations, C* grad_weights) const {
    C dot[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) dot[i] = (has_pixel >> i & 1u) != 0 ? dots[i * threads] : C(0);
    const C top = dot[0] + right * (dot[1] - dot[0]), bottom = dot[2] + right * (dot[3] - dot[2]);
    const C left = dot[0] + below * (dot[2] - dot[0]), far = dot[1] + below * (dot[3] - dot[1]);
    const C by_weight = top + below * (bottom - top);
    const C by_x = weight * static_cast<C>(level.width) * (far - left);
    const C by_y = weight * static_cast<C>(level.height) * (bottom - top);
    C *const of_weight = grad_weights + index, *const of_location = grad_locations + 2 * index;
    *of_weight = is_first ? by_weight : *of_weight + by_weight;
    of_location[0] = is_first ? by_x : of_location[0] + by_x;
    of_location[1] = is_first ? by_y : of_location[1] + by_y;
  }
};

// Blocks per multiprocessor: before Hopper, most have shared memory for only two.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int backward_blocks = 2;
#else
constexpr int backward_blocks = 3;
#endif

// item = (batch item · heads + head) · tiles + tile.
template <typename T, int V, bool fixed>
__global__ void __launch_bounds__(threads, fixed || sizeof(T) == 8 ? 2 : backward_blocks)
    attend_backward(MsDeformAttn args, DeformSums sums, const T* grad_output, Compute<T>* grad_locations,
                    Compute<T>* grad_weights, int lanes_of_pixel) {
  using C = Compute<T>;
  BackwardMemory<C>& memory = *shared_memory<BackwardMemory<C>>();
  PixelLists<C>& lists = memory.lists;
  clear_lists(lists);
  find_tiling(args, memory.tiling);
  const int32_t heads = static_cast<int32_t>(args.heads), levels = static_cast<int32_t>(args.levels);
  const int32_t points = static_cast<int32_t>(args.points), tiles = memory.tiling.first_tile[levels];
  const Lanes<V> lanes(lanes_of_pixel, static_cast<int32_t>(args.channels / V));
  const uint32_t pixel_bytes = static_cast<uint32_t>(args.heads * args.channels * sizeof(T));
  const int32_t i = threadIdx.x / points_at_once, point_of_thread = threadIdx.x % points_at_once;
  for (int64_t item = blockIdx.x; item < args.batch * heads * tiles; item += gridDim.x) {
    const QueryTile tile(args, memory.tiling, static_cast<int32_t>(item % tiles));
    const int32_t head = static_cast<int32_t>(item / tiles % heads);
    const int64_t batch_item = item / tiles / heads, query = tile.query(i);
    const C scale = fixed ? static_cast<C>(ldexp(1.0, exponent_of_fixed<C>(args, sums.largest, batch_item))) : C(1);
    const int64_t sum_at = (batch_item * args.pixels * heads + head) * args.channels;
    const T* const value = static_cast<const T*>(args.value) + sum_at;
    const T* const grad = grad_output + ((batch_item * args.queries + tile.first) * heads + head) * args.channels;
    for (int32_t l = 0; l < levels; ++l) {
      for (int32_t first_point = 0; first_point < points; first_point += points_at_once) {
        const int32_t point = first_point + point_of_thread;
        const bool exists = query >= 0 && point < points;
        const int64_t index =
            (((batch_item * args.queries + (exists ? query : 0)) * heads + head) * levels + l) * points +
            (exists ? point : 0);
        const Corners<C> corners(memory.tiling.level[l], static_cast<const C*>(args.locations) + 2 * index);
        const C* const weight = static_cast<const C*>(args.weights) + index;
        if (exists) list_corners(corners, *weight, static_cast<uint32_t>(query - tile.first), lists);
        const OwnSample<C> own(corners, index);
        const int32_t count = order_lists(lists);
        for (int32_t chunk = 0; chunk < lanes.vectors; chunk += lanes.count * Lanes<V>::held) {
          if (chunk > 0) __syncthreads();
          sum_lists<T, V, fixed>(lists, count, lanes, chunk, value, grad, pixel_bytes, sums, sum_at, scale);
          __syncthreads();
          if (!exists) continue;
          own.add_gradients(lists.dot + threadIdx.x, *weight, memory.tiling.level[l], chunk == 0, grad_locations,
                            grad_weights);
        }
      }
    }
  }
}

}  // namespace
}  // namespace mfvis
