// Integer arithmetic for kernels, which may not use the functions of the standard library (kernel.h).
#pragma once

#include <cstdint>

#include "dtype.h"

namespace mfvis {

template <typename T>
static MFVIS_HOST_DEVICE constexpr T min(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
static MFVIS_HOST_DEVICE constexpr T max(T a, T b) {
  return a < b ? b : a;
}

static MFVIS_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static MFVIS_HOST_DEVICE constexpr int64_t round_up(int64_t size, int64_t multiple) {
  return ceil_div(size, multiple) * multiple;
}

// index / side, the row of an element in a square, for index < 2^16 and odd side < 256, given 1.0f / side. The added
// half keeps every product at least 0.5 / 255 away from an integer, a hundred times the rounding error.
static MFVIS_HOST_DEVICE int32_t row_of(int32_t index, float inverse_side) {
  return static_cast<int32_t>((static_cast<float>(index) + 0.5f) * inverse_side);
}

}  // namespace mfvis
