#pragma once

#include <cstdint>

namespace mfvis {

// Prefetches the elements data[first], data[first + 1], ... into the L2 cache. They may lie behind the end of an array:
// such a prefetch has no effect. Always inlined, as every function that does nothing else must be: GCC considers it
// free of effects and removes the call.
template <typename T>
static inline __attribute__((always_inline)) void prefetch(const T* data, int64_t first, int64_t count) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(first) * sizeof(T);
  const uintptr_t end = begin + static_cast<uintptr_t>(count) * sizeof(T);
  for (uintptr_t at = begin; at < end; at += 64) __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
}

}  // namespace mfvis
