#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "dtype.h"

namespace mfvis {

// The first cache-line boundary at or after `data`, at most 63 bytes on. Vectors of a full line that are loaded from
// anywhere else span two lines, which takes twice the time.
template <typename T>
static inline T* align_to_cache_line(T* data) {
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(data) + 63) & ~uintptr_t{63});
}

// Stores values that will not be read soon as elements of a tensor. Without a conversion they bypass the caches: an
// ordinary store first fetches every line that it is about to overwrite, which is half of the traffic. Stores are as
// wide as the machine's vectors, because writing a line in one piece takes half the time of four. The unaligned ends
// use ordinary stores.
template <typename From, typename To>
static inline void store_nontemporal(const From* from, int64_t count, To* to) {
  if constexpr (!std::is_same_v<From, To>) {
    for (int64_t i = 0; i < count; ++i) store(from[i], to + i);
  } else {
    const char* const in = reinterpret_cast<const char*>(from);
    char* const out = reinterpret_cast<char*>(to);
    const int64_t bytes = count * static_cast<int64_t>(sizeof(To));
    int64_t at = 0;
#if defined(__SSE2__)
#if defined(__AVX512F__)
    using Vector = __m512i;
#elif defined(__AVX__)
    using Vector = __m256i;
#else
    using Vector = __m128i;
#endif
    constexpr int64_t width = sizeof(Vector);
    const int64_t before = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(out) % width);
    at = before < bytes ? before : bytes;
    std::memcpy(out, in, static_cast<size_t>(at));
    for (; at + width <= bytes; at += width) {
      Vector* const whole = reinterpret_cast<Vector*>(out + at);
#if defined(__AVX512F__)
      _mm512_stream_si512(whole, _mm512_loadu_si512(in + at));
#elif defined(__AVX__)
      _mm256_stream_si256(whole, _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(in + at)));
#else
      _mm_stream_si128(whole, _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(in + at)));
#endif
    }
#endif
    std::memcpy(out + at, in + at, static_cast<size_t>(bytes - at));
  }
}

// Call once after all nontemporal stores, before another thread may read the values. Waits some 300 ns.
static inline void store_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace mfvis
