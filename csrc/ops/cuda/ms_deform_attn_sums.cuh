// Sums of the gradient of the value in global memory, to which any block may add:
//
//   by default        floating-point atomics, 16 bytes at once from compute capability 9.0 on
//   deterministic     largest |grad_output|, |weight|  ──►  a power of two per batch item by which any sum of products
//                     fits in 62 bits, so that small gradients keep their digits  ──►  atomics of 64-bit integers,
//                     whose order does not matter  ──►  converted at the end
//
// Integers instead of a sort or a gather: the positions of the samples are data, so lists of them would need the host
// or memory for the worst case. A sum of integers costs twice the bytes, and with 40 bits and more below the largest
// product it is more exact than one of floats.
#pragma once

#include "ms_deform_attn_tiles.cuh"

namespace mfvis {
namespace {

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

// Called for a query with softmax whose weights are NaN. Its products were added as arbitrary integers.
__device__ __forceinline__ void mark_as_nan(const DeformSums& sums, int64_t batch, int64_t item) {
  atomicMax(reinterpret_cast<unsigned long long*>(sums.largest + batch + item), ~0ull);
}

// An upper bound of the products of gradient and weight in a batch item, 0 with softmax. Not finite if one of them, or
// the product, is not.
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
  C product;
  if (args.softmax) {
    from_bits(largest[item], &product);  // the weights are at most 1
  } else {
    product = largest_product<C>(args, largest, item);
  }
  const double bound = static_cast<double>(product) * samples;
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

}  // namespace
}  // namespace mfvis
