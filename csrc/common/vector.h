#pragma once

#include <cstdint>

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

}  // namespace
}  // namespace mfvis
