#pragma once

#include <cstdint>

namespace mfvis {
namespace {

// Vectors written out, for loops of which the compiler makes scalars, or sums that it keeps in memory.
template <typename C, int count>
struct Numbers {
  typedef C Type __attribute__((vector_size(count * sizeof(C)), aligned(sizeof(C)), may_alias));
};

// As many as the machine's vectors hold, and at least four.
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
  using Type = typename Numbers<C, size>::Type;
};

}  // namespace
}  // namespace mfvis
