// Forward: a block has 64 queries and one head at a time. Where every pixel of the levels asks, as in an encoder, those
// are 8 x 8 neighbors: they sample the same pixels, which then come from L1. Four threads a query compute the corners
// of its samples for all channels. With softmax, they first find the largest logit; the sum divides the output:
//
//   samples   [64 queries][<= 16] corner pixels, their shares    shared memory, 32 bytes each: 25 KiB for 12 samples
//
// and read by the threads that sum one vector (16 bytes) of channels of a query each. The threads of a query read
// adjacent vectors of the same pixels, so every corner is one coalesced read:
//
//   query q0             │ query q1             │ ...      threads: queries x D/V
//   v0 v1 v2 ... D/V - 1 │ v0 v1 v2 ... D/V - 1 │          each: L x points x 4 corners, sums in registers
//
// Backward: ms_deform_attn_backward.cuh.
//
// Floor: value, locations, weights and output move once, some 20 bytes per sample. But every sample reads 4 · D values
// from the caches, which dominates: 4 · D · sizeof(T) bytes per sample in the forward pass, and in the backward pass as
// many of grad_output.
#include "ms_deform_attn_backward.cuh"

namespace mfvis {
namespace {

constexpr int32_t max_samples = 16;

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

// Bytes of the samples of a query. 16 more than they need, so that eight samples written at a time lie in different
// banks; with softmax, the last of them are the reciprocal of its sum.
template <typename C>
MFVIS_HOST_DEVICE int32_t bytes_of_samples(int32_t samples) {
  return samples * static_cast<int32_t>(sizeof(Sample<C>)) + 16;
}

// item = (batch item · heads + head) · tiles + tile.
template <typename T, int V, bool softmax>
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
  // The lanes that compute the samples of a query.
  constexpr int32_t lanes = threads / tile_queries;
  const int32_t lane = threadIdx.x % lanes, query_of_lane = threadIdx.x / lanes;
  unsigned char* const samples_of_lane = shared_samples + query_of_lane * query_bytes;
  for (int64_t item = blockIdx.x; item < args.batch * heads * tiles; item += gridDim.x) {
    const QueryTile tile(args, tiling, static_cast<int32_t>(item % tiles));
    const int32_t head = static_cast<int32_t>(item / tiles % heads);
    const int64_t batch_item = item / tiles / heads;
    const int64_t first_query = batch_item * args.queries, asks = tile.query(query_of_lane);
    const int64_t first_sample = ((first_query + max<int64_t>(asks, 0)) * heads + head) * samples;
    const int32_t end_of_lane = asks < 0 ? 0 : samples;
    const C* const weights = static_cast<const C*>(args.weights) + first_sample;
    const C largest = softmax ? largest_over_lanes<lanes>(weights, end_of_lane) : C(0);
    for (int32_t group = 0; group < tile_queries * vectors; group += threads) {
      const int32_t own = group + static_cast<int32_t>(threadIdx.x), i = own / vectors, vector = own - i * vectors;
      const int64_t query = i < tile_queries ? tile.query(i) : -1;
      const char* const value =
          static_cast<const char*>(args.value) +
          ((batch_item * args.pixels * heads + head) * vectors + vector) * static_cast<int64_t>(sizeof(Channels<T, V>));
      C sum[V] = {}, weight_sum = 0;
      for (int32_t begin = 0; begin < samples; begin += samples_at_once) {
        const int32_t count = min(samples_at_once, samples - begin);
        if (group == 0 || samples > samples_at_once) {
          __syncthreads();
          int32_t l = (begin + lane) / points, point = begin + lane - l * points;
#pragma unroll 1
          for (int32_t s = lane; s < min(count, end_of_lane - begin); s += lanes) {
            C weight = weights[begin + s];
            if constexpr (softmax) {
              weight = exponential(weight - largest);
              weight_sum += weight;
            }
            reinterpret_cast<Sample<C>*>(samples_of_lane)[s] = Sample<C>(
                tiling.level[l], static_cast<const C*>(args.locations) + 2 * (first_sample + begin + s), weight);
            for (point += lanes; point >= points; point -= points) ++l;
          }
          if (softmax && begin + count == samples) {
            weight_sum = sum_over_lanes<lanes>(weight_sum);
            if (lane == 0) reinterpret_cast<C*>(samples_of_lane + query_bytes)[-1] = 1 / weight_sum;
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
      const C scale = softmax ? reinterpret_cast<const C*>(shared_samples + (i + 1) * query_bytes)[-1] : C(1);
      Channels<T, V> result;
#pragma unroll
      for (int k = 0; k < V; ++k) store(softmax ? scale * sum[k] : sum[k], &result.at[k]);
      reinterpret_cast<Channels<T, V>*>(output)[((first_query + query) * heads + head) * vectors + vector] = result;
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

// A quarter more than whole tiles: the levels' sizes, of which only the device may know, cut some.
int64_t max_tiles(const MsDeformAttn& args) { return ceil_div(args.queries * 5, tile_queries * 4) + args.levels; }

void ms_deform_attn(const MsDeformAttn& args, void* output) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    with_width<T>(args, output, [&](auto width) {
      constexpr int V = decltype(width)::value;
      const int32_t samples_at_once = static_cast<int32_t>(min<int64_t>(args.levels * args.points, max_samples));
      const int64_t bytes = round_up(sizeof(Tiling), 16) + tile_queries * bytes_of_samples<Compute<T>>(samples_at_once);
      const auto kernel = args.softmax ? attend<T, V, true> : attend<T, V, false>;
      launch("ms_deform_attn", kernel, grid_for(args.batch * args.heads * max_tiles(args), 1), threads, bytes, args,
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
      if (!args.softmax) {
        launch(op, find_largest<C>, blocks_over(weights), threads, 0, static_cast<const C*>(args.weights), weights,
               args.batch, sums.largest + args.batch);
      }
    }
    with_width<T>(args, grad_output, [&](auto width) {
      constexpr int V = decltype(width)::value;
      const bool fixed = sums.in_fixed != nullptr;
      const int64_t bytes_of_softmax = args.softmax ? tile_queries * sizeof(Softmax<C>) : 0;
      const auto kernel = args.softmax
                              ? (fixed ? attend_backward<T, V, true, true> : attend_backward<T, V, false, true>)
                              : (fixed ? attend_backward<T, V, true, false> : attend_backward<T, V, false, false>);
      launch(op, kernel, grid_for(args.batch * args.heads * max_tiles(args), 1), threads,
             sizeof(BackwardMemory<C>) + bytes_of_softmax, args, sums, static_cast<const T*>(grad_output),
             static_cast<C*>(grad_locations), static_cast<C*>(grad_weights));
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
