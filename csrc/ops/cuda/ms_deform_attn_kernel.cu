// Forward: a block has 64 queries and one head at a time. Where every pixel of the levels asks, as in an encoder, those
// are 8 x 8 neighbors: they sample the same pixels, which then come from L1. The corners of a sample are computed by
// one thread for all channels:
//
//   samples   [64 queries][<= 16] corner pixels, their shares    shared memory, 32 bytes each: 25 KiB for 12 samples
//
// and read by the threads that sum one vector (16 bytes) of channels of a query each. The threads of a query read
// adjacent vectors of the same pixels, so every corner is one coalesced read:
//
//   query q0             │ query q1             │ ...      threads: queries x D/V
//   v0 v1 v2 ... D/V - 1 │ v0 v1 v2 ... D/V - 1 │          each: L x points x 4 corners, sums in registers
//
// Backward: groups of 1 to 32 lanes per query and head. A lane computes the corners itself, has some vectors of
// channels, and the group sums the gradients of location and weight by shuffles. The gradient of the value is
// accumulated in global memory, where any query may write:
//
//   by default        floating-point atomics, 16 bytes at once from compute capability 9.0 on
//   deterministic     largest |grad_output|, |weight|  ──►  a power of two per batch item by which any sum of products
//                     fits in 62 bits, so that small gradients keep their digits  ──►  atomics of 64-bit integers,
//                     whose order does not matter  ──►  converted at the end
//
// Integers instead of a sort or a gather: the positions of the samples are data, so lists of them would need the host
// or memory for the worst case. A sum of integers costs twice the bytes, and with 40 bits and more below the largest
// product it is more exact than one of floats.
//
// Floor: value, locations, weights and output move once, some 20 bytes per sample. But every sample reads 4 · D values
// from the caches, which dominates: 4 · D · sizeof(T) bytes per sample in the forward pass, and in the backward pass as
// many again, plus as many atomics.
#include <cmath>

#include "../../common/cuda.h"
#include "../ms_deform_attn.h"

namespace mfvis {
namespace {

constexpr int threads = 256;

// V adjacent channels, one load or store.
template <typename T, int V>
struct alignas(sizeof(T) * V) Channels {
  T at[V];
};

struct Level {
  int32_t height;
  int32_t width;
  int32_t start;
};

// A level outside of `value`, which only the CPU refuses, has no pixels.
__device__ __forceinline__ Level level_of(const MsDeformAttn& args, int l) {
  const int64_t* const shape = args.shapes_on_device;
  const int64_t height = shape != nullptr ? shape[2 * l] : args.level[l].height;
  const int64_t width = shape != nullptr ? shape[2 * l + 1] : args.level[l].width;
  const int64_t start = shape != nullptr ? args.starts_on_device[l] : args.level[l].start;
  const bool within = height > 0 && height <= args.pixels && width > 0 && width <= args.pixels && start >= 0 &&
                      start <= args.pixels && height * width <= args.pixels - start;
  if (!within) return {0, 0, 0};
  return {static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(start)};
}

// The corners of a sample: top left, top right, bottom left, bottom right.
template <typename C>
struct Corners {
  C right, below;  // position between the corners, 0 to 1
  int32_t row[4];  // rows of `value` within one batch item; -1 if there is no pixel

  __device__ __forceinline__ Corners(const Level& level, const C* location) {
    const C x_at = in_pixels(location[0], level.width), y_at = in_pixels(location[1], level.height);
    right = x_at - floor_of(x_at);
    below = y_at - floor_of(y_at);
    const int32_t x = pixel_of(floor_of(x_at), level.width), y = pixel_of(floor_of(y_at), level.height);
    const bool has_x[2] = {x >= 0 && x < level.width, x >= -1 && x + 1 < level.width};
    const bool has_y[2] = {y >= 0 && y < level.height, y >= -1 && y + 1 < level.height};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Fits in 32 bits only if there is a pixel.
      const uint32_t at = static_cast<uint32_t>(level.start) +
                          static_cast<uint32_t>(y + i / 2) * static_cast<uint32_t>(level.width) +
                          static_cast<uint32_t>(x + i % 2);
      row[i] = has_x[i % 2] && has_y[i / 2] ? static_cast<int32_t>(at) : -1;
    }
  }

  __device__ __forceinline__ C share(int i) const { return (i % 2 ? right : 1 - right) * (i / 2 ? below : 1 - below); }
};

// The four corners' channels, zero where there is no pixel: four independent loads. from: the first pixel. step: from
// pixel to pixel.
template <typename T, int V, typename C>
__device__ __forceinline__ void load_corners(const Channels<T, V>* from, int32_t step, const Corners<C>& corners,
                                             C (&values)[4][V]) {
  Channels<T, V> loaded[4];
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    if (corners.row[corner] >= 0) loaded[corner] = from[static_cast<int64_t>(corners.row[corner]) * step];
  }
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      values[corner][k] = corners.row[corner] >= 0 ? static_cast<C>(load(loaded[corner].at[k])) : C(0);
    }
  }
}

constexpr int32_t tile_side = 8, tile_queries = tile_side * tile_side, max_samples = 16;

// What a sample adds to the channels of a query: the sum of share · value over four pixels. pixel[0] < 0: nothing.
template <typename C>
struct alignas(16) Sample {
  int32_t pixel[4];  // rows of `value` within one batch item
  C share[4];

  __device__ __forceinline__ Sample(const Level& level, const C* location, C weight) {
    const Corners<C> corners(level, location);
    // 0, or NaN if location or weight is: a diverged model must not go unnoticed outside of the frame.
    const C zero_or_nan = 0 * weight * corners.right * corners.below;
    const int32_t inside =
        max(max(corners.row[0], corners.row[1]), max(corners.row[2], corners.row[3]));  // -1 if none is
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // A corner outside of the level repeats one inside, without a share.
      pixel[i] = corners.row[i] >= 0 ? corners.row[i] : max(inside, 0);
      share[i] = (corners.row[i] >= 0 ? weight * corners.share(i) : C(0)) + zero_or_nan;
    }
    if (inside < 0 && zero_or_nan == 0) pixel[0] = -1;
  }
};

// Bytes of the samples of a query. 16 more than they need, so that four queries lie in different banks.
template <typename C>
MFVIS_HOST_DEVICE int32_t bytes_of_samples(int32_t samples) {
  return samples * static_cast<int32_t>(sizeof(Sample<C>)) + 16;
}

// How the queries of a batch item are divided into tiles.
struct Tiling {
  Level level[max_deform_levels];
  int32_t first_tile[max_deform_levels + 1];  // of each level
  bool by_level;                              // else 64 queries in a row
};

__device__ void find_tiling(const MsDeformAttn& args, Tiling& tiling) {
  const int32_t levels = static_cast<int32_t>(args.levels);
  const int own = threadIdx.x;
  if (own < levels) tiling.level[own] = level_of(args, own);
  __syncthreads();
  if (own == 0) {
    int64_t pixels = 0;
    int32_t tiles = 0;
    bool by_level = args.queries == args.pixels;
    for (int32_t l = 0; l < levels; ++l) {
      const Level level = tiling.level[l];
      by_level &= level.start == pixels;
      pixels += static_cast<int64_t>(level.height) * level.width;
      tiling.first_tile[l] = tiles;
      tiles += static_cast<int32_t>(ceil_div(level.height, tile_side) * ceil_div(level.width, tile_side));
    }
    tiling.by_level = by_level && pixels == args.pixels;
    tiling.first_tile[levels] = tiling.by_level ? tiles : static_cast<int32_t>(ceil_div(args.queries, tile_queries));
  }
  __syncthreads();
}

// Query i of a tile is first + i / 8 · step + i % 8.
struct QueryTile {
  __device__ QueryTile(const MsDeformAttn& args, const Tiling& tiling, int32_t tile) {
    if (!tiling.by_level) {
      first = int64_t{tile} * tile_queries;
      step = rows = columns = tile_side;
      end = args.queries;
      return;
    }
    int32_t l = 0;
    while (tile >= tiling.first_tile[l + 1]) ++l;
    const Level level = tiling.level[l];
    const int32_t across = static_cast<int32_t>(ceil_div(level.width, tile_side)), within = tile - tiling.first_tile[l];
    const int32_t y = within / across * tile_side, x = within % across * tile_side;
    first = level.start + int64_t{y} * level.width + x;
    step = level.width;
    rows = level.height - y;
    columns = level.width - x;
    end = args.queries;
  }

  // -1 if there is no such query.
  __device__ __forceinline__ int64_t query(int32_t i) const {
    const int32_t row = i / tile_side, column = i % tile_side;
    const int64_t found = first + int64_t{row} * step + column;
    return row < rows && column < columns && found < end ? found : -1;
  }

  int64_t first, end;
  int32_t step, rows, columns;
};

// item = (batch item · heads + head) · tiles + tile.
template <typename T, int V>
__global__ void __launch_bounds__(threads, sizeof(T) < 8 ? 4 : 2)
    attend(MsDeformAttn args, T* output, int32_t samples_at_once) {
  using C = Compute<T>;
  Tiling& tiling = *shared_memory<Tiling>();
  unsigned char* const shared_samples = reinterpret_cast<unsigned char*>(&tiling) + round_up(sizeof(Tiling), 16);
  find_tiling(args, tiling);
  const int32_t vectors = static_cast<int32_t>(args.channels / V), heads = static_cast<int32_t>(args.heads);
  const int32_t points = static_cast<int32_t>(args.points), samples = static_cast<int32_t>(args.levels) * points;
  const int32_t tiles = tiling.first_tile[args.levels], query_bytes = bytes_of_samples<C>(samples_at_once);
  const uint32_t pixel_bytes = static_cast<uint32_t>(heads) * vectors * static_cast<uint32_t>(sizeof(Channels<T, V>));
  const float inverse = 1.0f / static_cast<float>(samples_at_once);
  for (int64_t item = blockIdx.x; item < args.batch * heads * tiles; item += gridDim.x) {
    const QueryTile tile(args, tiling, static_cast<int32_t>(item % tiles));
    const int32_t head = static_cast<int32_t>(item / tiles % heads);
    const int64_t batch_item = item / tiles / heads;
    const int64_t first_query = batch_item * args.queries;
    for (int32_t group = 0; group < tile_queries * vectors; group += threads) {
      const int32_t own = group + static_cast<int32_t>(threadIdx.x), i = own / vectors, vector = own - i * vectors;
      const int64_t query = i < tile_queries ? tile.query(i) : -1;
      const char* const value =
          static_cast<const char*>(args.value) +
          ((batch_item * args.pixels * heads + head) * vectors + vector) * static_cast<int64_t>(sizeof(Channels<T, V>));
      C sum[V] = {};
      for (int32_t begin = 0; begin < samples; begin += samples_at_once) {
        const int32_t count = min(samples_at_once, samples - begin);
        if (group == 0 || samples > samples_at_once) {
          __syncthreads();
          for (int32_t at = threadIdx.x; at < tile_queries * samples_at_once; at += threads) {
            const int32_t of = row_of(at, inverse), sample = begin + at - of * samples_at_once;
            const int64_t asks = tile.query(of);
            if (asks < 0 || sample >= samples) continue;
            const int64_t from = ((first_query + asks) * heads + head) * samples + sample;
            reinterpret_cast<Sample<C>*>(shared_samples + of * query_bytes)[sample - begin] =
                Sample<C>(tiling.level[sample / points], static_cast<const C*>(args.locations) + 2 * from,
                          static_cast<const C*>(args.weights)[from]);
          }
          __syncthreads();
        }
        if (query < 0) continue;
        const Sample<C>* const of_query = reinterpret_cast<const Sample<C>*>(shared_samples + i * query_bytes);
        for (int32_t s = 0; s < count; ++s) {
          const Sample<C> sample = of_query[s];
          if (sample.pixel[0] < 0) continue;
          Channels<T, V> loaded[4];
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            const uint32_t pixel = static_cast<uint32_t>(sample.pixel[corner]);
            loaded[corner] = *reinterpret_cast<const Channels<T, V>*>(value + uint64_t{pixel} * pixel_bytes);
          }
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
            for (int k = 0; k < V; ++k) sum[k] += sample.share[corner] * static_cast<C>(load(loaded[corner].at[k]));
          }
        }
      }
      if (query < 0) continue;
      Channels<T, V> result;
#pragma unroll
      for (int k = 0; k < V; ++k) store(sum[k], &result.at[k]);
      reinterpret_cast<Channels<T, V>*>(output)[((first_query + query) * heads + head) * vectors + vector] = result;
    }
  }
}

__device__ __forceinline__ uint64_t bits_of_magnitude(float x) { return bits_as<uint32_t>(x) & 0x7fffffffu; }
__device__ __forceinline__ uint64_t bits_of_magnitude(double x) { return bits_as<uint64_t>(x) & 0x7fffffffffffffffull; }
__device__ __forceinline__ void from_bits(uint64_t bits, float* x) { *x = bits_as<float>(static_cast<uint32_t>(bits)); }
__device__ __forceinline__ void from_bits(uint64_t bits, double* x) { *x = bits_as<double>(bits); }

// The largest magnitude of the `count` values of each batch item, as bits, which have the same order. NaN is above
// everything.
template <typename T>
__global__ void __launch_bounds__(threads)
    find_largest(const T* numbers, int64_t count, int64_t batch, uint64_t* largest) {
  for (int64_t b = blockIdx.y; b < batch; b += gridDim.y) {
    uint64_t most = 0;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * threads) {
      const uint64_t bits = bits_of_magnitude(load(numbers[b * count + i]));
      most = max(bits, most);
    }
    for (int step = 16; step > 0; step /= 2) {
      const uint64_t other = __shfl_xor_sync(whole_warp, static_cast<unsigned long long>(most), step);
      most = max(other, most);
    }
    if (threadIdx.x % 32 == 0) atomicMax(reinterpret_cast<unsigned long long*>(largest + b), most);
  }
}

// An upper bound of the products of gradient and weight in a batch item. Not finite if one of them, or the product, is
// not.
template <typename C>
__device__ __forceinline__ C largest_product(const MsDeformAttn& args, const uint64_t* largest, int64_t item) {
  C grad, weight;
  from_bits(largest[item], &grad);
  from_bits(largest[args.batch + item], &weight);
  return grad * weight;
}

// The exponent of the power of two by which products become integers such that a sum over all samples of a head stays
// below 2^62.
template <typename C>
__device__ __forceinline__ int exponent_of_fixed(const MsDeformAttn& args, const uint64_t* largest, int64_t item) {
  const double samples = static_cast<double>(args.queries) * static_cast<double>(args.levels * args.points);
  const double bound = static_cast<double>(largest_product<C>(args, largest, item)) * samples;
  constexpr int most = sizeof(C) == sizeof(float) ? 126 : 1000;  // the power itself must be representable in C
  if (!(bound > 0)) return most;
  const int exponent = 61 - ilogb(bound);
  return max(-most, min(exponent, most));
}

__device__ __forceinline__ void add_four(float* to, float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(to), float4{a, b, c, d});
#else
  atomicAdd(to, a);
  atomicAdd(to + 1, b);
  atomicAdd(to + 2, c);
  atomicAdd(to + 3, d);
#endif
}

// Atomically adds V products.
template <typename C, int V>
__device__ __forceinline__ void add(C* to, const C (&value)[V]) {
  constexpr int at_once = sizeof(C) == sizeof(float) && V % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int k = 0; k < V; k += at_once) {
    if constexpr (at_once == 1) {
      atomicAdd(to + k, value[k]);
    } else {
      add_four(to + k, value[k], value[k + 1], value[k + 2], value[k + 3]);
    }
  }
}

template <typename C>
__device__ __forceinline__ C sum_over_lanes(C value, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(whole_warp, value, step);
  return value;
}

// lanes: adjacent threads per query and head, a power of two up to 32. All lanes of a warp stay together.
template <typename T, int V, bool fixed>
__global__ void __launch_bounds__(threads, 2)
    attend_backward(MsDeformAttn args, DeformSums sums, const T* grad_output, Compute<T>* grad_locations,
                    Compute<T>* grad_weights, int lanes) {
  using C = Compute<T>;
  const int lane = threadIdx.x % lanes, per_block = threads / lanes;
  const int32_t vectors = static_cast<int32_t>(args.channels / V), heads = static_cast<int32_t>(args.heads);
  const int32_t levels = static_cast<int32_t>(args.levels), points = static_cast<int32_t>(args.points);
  const int64_t count = args.batch * args.queries * heads, step = static_cast<int64_t>(gridDim.x) * per_block;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * per_block; first < count; first += step) {
    const int64_t index = first + threadIdx.x / lanes;
    const bool exists = index < count;
    const int64_t item = exists ? index : count - 1, query = item / heads;
    const int32_t head = static_cast<int32_t>(item - query * heads);
    const int64_t batch_item = query / args.queries, value = (batch_item * args.pixels * heads + head) * vectors;
    const C scale = fixed ? static_cast<C>(ldexp(1.0, exponent_of_fixed<C>(args, sums.largest, batch_item))) : C(1);
    int64_t sample = item * levels * points;
    for (int l = 0; l < levels; ++l) {
      const Level level = level_of(args, l);
      for (int p = 0; p < points; ++p, ++sample) {
        const Corners<C> corners(level, static_cast<const C*>(args.locations) + 2 * sample);
        const C weight = static_cast<const C*>(args.weights)[sample];
        C dot[4] = {};  // of the corner's channels with the gradient of the output
        for (int32_t c = exists ? lane : vectors; c < vectors; c += lanes) {
          const Channels<T, V> grad = reinterpret_cast<const Channels<T, V>*>(grad_output)[item * vectors + c];
          C values[4][V];
          load_corners(static_cast<const Channels<T, V>*>(args.value) + value + c, heads * vectors, corners, values);
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            if (corners.row[corner] < 0) continue;
            const int64_t at = value + static_cast<int64_t>(corners.row[corner]) * heads * vectors + c;
            const C share = weight * corners.share(corner);
            C product[V];
#pragma unroll
            for (int k = 0; k < V; ++k) {
              dot[corner] += load(grad.at[k]) * values[corner][k];
              product[k] = share * load(grad.at[k]);
            }
            if constexpr (fixed) {
              unsigned long long* const to = reinterpret_cast<unsigned long long*>(sums.in_fixed) + at * V;
#pragma unroll
              for (int k = 0; k < V; ++k)
                atomicAdd(to + k, static_cast<unsigned long long>(llrint(product[k] * scale)));
            } else {
              add(static_cast<C*>(sums.sums) + at * V, product);
            }
          }
        }
        const C x = corners.right, y = corners.below;
        const C top = dot[0] + x * (dot[1] - dot[0]), bottom = dot[2] + x * (dot[3] - dot[2]);
        const C left = dot[0] + y * (dot[2] - dot[0]), right = dot[1] + y * (dot[3] - dot[1]);
        const C by_weight = sum_over_lanes(top + y * (bottom - top), lanes);
        const C by_x = sum_over_lanes(right - left, lanes), by_y = sum_over_lanes(bottom - top, lanes);
        if (exists && lane == 0) {
          grad_weights[sample] = by_weight;
          grad_locations[2 * sample] = weight * static_cast<C>(level.width) * by_x;
          grad_locations[2 * sample + 1] = weight * static_cast<C>(level.height) * by_y;
        }
      }
    }
  }
}

// Converts the sums to the gradient of the value in its dtype.
template <typename T>
__global__ void __launch_bounds__(threads) convert_sums(MsDeformAttn args, DeformSums sums, T* grad_value) {
  using C = Compute<T>;
  const int64_t count = args.pixels * args.heads * args.channels;
  const bool fixed = sums.in_fixed != nullptr;
  for (int64_t b = blockIdx.y; b < args.batch; b += gridDim.y) {
    const double unit = fixed ? ldexp(1.0, -exponent_of_fixed<C>(args, sums.largest, b)) : 1;
    const C most = fixed ? largest_product<C>(args, sums.largest, b) : C(0);
    const bool finite = most - most == 0;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * threads) {
      const int64_t at = b * count + i;
      const C sum =
          fixed ? static_cast<C>(static_cast<double>(sums.in_fixed[at]) * unit) : static_cast<C*>(sums.sums)[at];
      store(finite ? sum : static_cast<C>(NAN), grad_value + at);
    }
  }
}

// Calls visit(V): 16 bytes of channels if all vectors of the tensors are aligned to 16 bytes, else 1.
template <int size>
struct Width {
  static constexpr int value = size;
};
template <typename T, typename Visit>
void with_width(const MsDeformAttn& args, const void* other, const Visit& visit) {
  constexpr int most = 16 / sizeof(T);
  const bool aligned = (reinterpret_cast<uintptr_t>(args.value) | reinterpret_cast<uintptr_t>(other)) % 16 == 0;
  if (aligned && args.channels % most == 0) return visit(Width<most>{});
  visit(Width<1>{});
}

void ms_deform_attn(const MsDeformAttn& args, void* output) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    with_width<T>(args, output, [&](auto width) {
      constexpr int V = decltype(width)::value;
      const int32_t samples_at_once = static_cast<int32_t>(min<int64_t>(args.levels * args.points, max_samples));
      // A quarter more than whole tiles: the levels' sizes, of which only the device may know, cut some.
      const int64_t tiles = ceil_div(args.queries * 5, tile_queries * 4) + args.levels;
      const int64_t bytes = round_up(sizeof(Tiling), 16) + tile_queries * bytes_of_samples<Compute<T>>(samples_at_once);
      launch("ms_deform_attn", attend<T, V>, grid_for(args.batch * args.heads * tiles, 1), threads, bytes, args,
             static_cast<T*>(output), samples_at_once);
    });
  });
}

void ms_deform_attn_backward(const MsDeformAttn& args, const DeformSums& sums, const void* grad_output,
                             void* grad_value, void* grad_locations, void* grad_weights) {
  const char* const op = "ms_deform_attn";
  constexpr int64_t largest_blocks = 4096, max_blocks_y = 65535;
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    const auto blocks_over = [&](int64_t of_item) {
      dim3 grid = grid_for(min(of_item, largest_blocks * threads), threads);
      grid.y = static_cast<unsigned>(min(args.batch, max_blocks_y));
      return grid;
    };
    if (sums.in_fixed != nullptr) {
      const int64_t outputs = args.queries * args.heads * args.channels;
      const int64_t weights = args.queries * args.heads * args.levels * args.points;
      launch(op, find_largest<T>, blocks_over(outputs), threads, 0, static_cast<const T*>(grad_output), outputs,
             args.batch, sums.largest);
      launch(op, find_largest<C>, blocks_over(weights), threads, 0, static_cast<const C*>(args.weights), weights,
             args.batch, sums.largest + args.batch);
    }
    with_width<T>(args, grad_output, [&](auto width) {
      constexpr int V = decltype(width)::value;
      int lanes = 1;
      while (lanes < 32 && lanes * V < args.channels) lanes *= 2;
      const dim3 grid = grid_for(args.batch * args.queries * args.heads, threads / lanes);
      const auto kernel = sums.in_fixed != nullptr ? attend_backward<T, V, true> : attend_backward<T, V, false>;
      launch(op, kernel, grid, threads, 0, args, sums, static_cast<const T*>(grad_output),
             static_cast<C*>(grad_locations), static_cast<C*>(grad_weights), lanes);
    });
    if (sums.sums != grad_value) {
      launch(op, convert_sums<T>, blocks_over(args.pixels * args.heads * args.channels), threads, 0, args, sums,
             static_cast<T*>(grad_value));
    }
  });
}

MFVIS_CUDA_KERNEL(ms_deform_attn_kernel, ms_deform_attn)
MFVIS_CUDA_KERNEL(ms_deform_attn_backward_kernel, ms_deform_attn_backward)

}  // namespace
}  // namespace mfvis
