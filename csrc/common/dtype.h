// The element types of the kernels. Half and BFloat16 use a few lines of bit arithmetic of their own, because
// libtorch's classes are inline functions with external linkage, which kernels must not contain (kernel.h). These
// vectorize. A GPU has an instruction for each conversion of Half, with the same results except for the bits of a NaN.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define MFVIS_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MFVIS_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace mfvis {

enum class Dtype { f16, bf16, f32, f64, u8 };

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename To, typename From>
static MFVIS_HOST_DEVICE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "the bits of one type as another of the same size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

static MFVIS_HOST_DEVICE double load(double x) { return x; }
static MFVIS_HOST_DEVICE float load(float x) { return x; }
static MFVIS_HOST_DEVICE float load(uint8_t x) { return static_cast<float>(x); }
static MFVIS_HOST_DEVICE float load(BFloat16 x) { return bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }
static MFVIS_HOST_DEVICE float load(Half x) {
#if defined(__CUDA_ARCH__)
  float converted;
  asm("cvt.f32.f16 %0, %1;" : "=f"(converted) : "h"(x.bits));
  return converted;
#else
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  // A product moves the exponent from bias 15 to 127 and normalizes subnormal numbers.
  const uint32_t scaled = bits_as<uint32_t>(bits_as<float>(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;
  return bits_as<float>((magnitude >= 0x0f800000u ? special : scaled) | sign);
#endif
}

static MFVIS_HOST_DEVICE void store(double x, double* to) { *to = x; }
static MFVIS_HOST_DEVICE void store(float x, float* to) { *to = x; }
static MFVIS_HOST_DEVICE void store(float x, BFloat16* to) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t nearest_even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(x != x ? 0x7fc0u : nearest_even);
}
static MFVIS_HOST_DEVICE void store(float x, Half* to) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(x));
#else
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5 aligns the bits of a number below 2^-14 with those of a subnormal half and rounds them.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x47800000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  to->bits = static_cast<uint16_t>(half | sign);
#endif
}

// The type in which a kernel computes: double for double, else float.
template <typename T>
using Compute = decltype(load(T{}));

// visit(T{}) with the element type of a tensor of logits.
template <typename Visit>
static inline void with_floating_type(Dtype dtype, const Visit& visit) {
  switch (dtype) {
    case Dtype::f16:
      return visit(Half{});
    case Dtype::bf16:
      return visit(BFloat16{});
    case Dtype::f64:
      return visit(double{});
    default:
      return visit(float{});
  }
}

// The same, including bytes (images).
template <typename Visit>
static inline void with_image_type(Dtype dtype, const Visit& visit) {
  if (dtype == Dtype::u8) return visit(uint8_t{});
  with_floating_type(dtype, visit);
}

}  // namespace mfvis
