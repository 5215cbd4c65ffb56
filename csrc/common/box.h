#pragma once

#include <cstdint>

#include "dtype.h"

namespace mfvis {

// Four consecutive values of a `[..., 4]` tensor of boxes: (x1, y1, x2, y2).
static MFVIS_HOST_DEVICE bool box_is_present(const float* box) { return box[2] > box[0] && box[3] > box[1]; }

// A half-open range of pixels.
struct Span {
  int64_t begin;
  int64_t end;
};

// The pixels whose center lies in [from, to): from ceil(from - 0.5) on, clipped to 0 and size. NaN gives an empty span.
static MFVIS_HOST_DEVICE Span pixels_inside(float from, float to, int64_t size) {
  if (!(to > from)) return {0, 0};
  const auto first_center = [size](float edge) -> int64_t {
    if (edge <= 0) return 0;
    if (edge >= 0x1p62f) return size;
    const int64_t below = static_cast<int64_t>(edge);
    // This difference is exact, unlike edge - 0.5.
    const int64_t first = below + (edge - static_cast<float>(below) > 0.5f);
    return first < size ? first : size;
  };
  return {first_center(from), first_center(to)};
}

}  // namespace mfvis
