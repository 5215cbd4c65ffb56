#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mfvis {
namespace {

// Explicit vectors, for loops that the compiler does not vectorize or whose sums it keeps in memory.
template <typename C, int count>
struct SimdVector {
  typedef C Type __attribute__((vector_size(count * sizeof(C)), aligned(sizeof(C)), may_alias));
};

// The widest vector of the machine, with at least four elements.
template <typename C>
struct Vector {
#if defined(__AVX512F__)
  static constexpr int bytes = 64;
#elif defined(__AVX__)
  static constexpr int bytes = 32;
#else
  static constexpr int bytes = 16;
#endif
  static constexpr int size = bytes / sizeof(C) < 4 ? 4 : bytes / sizeof(C);
  using Type = typename SimdVector<C, size>::Type;
};

// Whether any element of a vector of floats is less than the one of another vector.
inline __attribute__((always_inline)) bool any_below(const float* a, const float* b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(a), _mm512_loadu_ps(b), _CMP_LT_OQ) != 0;
#elif defined(__AVX__)
  return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b), _CMP_LT_OQ)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps(_mm_cmplt_ps(_mm_loadu_ps(a), _mm_loadu_ps(b))) != 0;
#else
  bool any = false;
  for (int i = 0; i < Vector<float>::size; ++i) any |= a[i] < b[i];
  return any;
#endif
}

// Whether any element of a vector of floats is at most the one of another vector.
inline __attribute__((always_inline)) bool any_up_to(const float* a, const float* b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(a), _mm512_loadu_ps(b), _CMP_LE_OQ) != 0;
#elif defined(__AVX__)
  return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b), _CMP_LE_OQ)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps(_mm_cmple_ps(_mm_loadu_ps(a), _mm_loadu_ps(b))) != 0;
#else
  bool any = false;
  for (int i = 0; i < Vector<float>::size; ++i) any |= a[i] <= b[i];
  return any;
#endif
}

}  // namespace
}  // namespace mfvis
