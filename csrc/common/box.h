#pragma once

#include <cstdint>

#include "dtype.h"

namespace mfvis {

// Four consecutive numbers of a `[..., 4]` tensor of boxes: (x1, y1, x2, y2).
static MFVIS_HOST_DEVICE bool box_is_present(const float* box) { return box[2] > box[0] && box[3] > box[1]; }

// A half-open range of pixels.
struct Span {
  int64_t begin;
  int64_t end;
};

// The pixels whose centre lies in [from, to): ceil(from - 0.5) and on, cut at 0 and size. Double arithmetic, because
// from - 0.5 is not exact in float; NaN gives an empty span.
static MFVIS_HOST_DEVICE Span pixels_inside(float from, float to, int64_t size) {
  if (!(to > from)) return {0, 0};
  const auto first_centre = [size](double edge) -> int64_t {
    const double shifted = edge - 0.5;
    if (shifted <= 0) return 0;
    if (shifted >= static_cast<double>(size)) return size;
    const int64_t below = static_cast<int64_t>(shifted);
    return below + (static_cast<double>(below) < shifted);
  };
  return {first_centre(from), first_centre(to)};
}

}  // namespace mfvis
