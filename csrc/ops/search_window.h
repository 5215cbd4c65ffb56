// The window in which temporal_topk searches the match of a pixel and tk_loss finds it again: S x S candidates, S =
// 2·radius + 1, `dilation` pixels apart, around the pixel's own position plus the shift of the pair.
#pragma once

#include <cstdint>

#include "../common/arithmetic.h"
#include "../common/dtype.h"

namespace mfvis {

// A shift by more than the frame's size and the window's reach leaves no candidate inside the frame. Clamping keeps
// coordinates from overflowing.
static MFVIS_HOST_DEVICE int64_t clamp_shift(int64_t shift, int64_t size, int64_t reach) {
  return max(-(size + reach), min(shift, size + reach));
}

struct SearchWindow {
  // shift: (dy, dx) of the pair, or null.
  MFVIS_HOST_DEVICE SearchWindow(const int64_t* shift, int64_t height, int64_t width, int64_t radius, int64_t dilation)
      : height(static_cast<int32_t>(height)),
        width(static_cast<int32_t>(width)),
        side(static_cast<int32_t>(2 * radius + 1)),
        dilation(static_cast<int32_t>(dilation)),
        inverse_side(1.0f / static_cast<float>(side)) {
    const int64_t reach = radius * dilation;
    first_dy = static_cast<int32_t>((shift ? clamp_shift(shift[0], height, reach) : 0) - reach);
    first_dx = static_cast<int32_t>((shift ? clamp_shift(shift[1], width, reach) : 0) - reach);
  }

  // The index in the source plane of a candidate of pixel (y, x); -1 if it does not exist.
  MFVIS_HOST_DEVICE int32_t source(int32_t candidate, int32_t y, int32_t x) const { return moved(candidate, y, x, 1); }

  // The index in the target plane of the pixel whose candidate is pixel (y, x); -1 if it does not exist.
  MFVIS_HOST_DEVICE int32_t target(int32_t candidate, int32_t y, int32_t x) const { return moved(candidate, y, x, -1); }

  MFVIS_HOST_DEVICE int32_t moved(int32_t candidate, int32_t y, int32_t x, int32_t direction) const {
    const int32_t row = row_of(candidate, inverse_side);
    const int32_t moved_y = y + direction * (first_dy + dilation * row);
    const int32_t moved_x = x + direction * (first_dx + dilation * (candidate - row * side));
    const bool exists = (candidate >= 0) & (candidate < side * side) & (moved_y >= 0) & (moved_y < height) &
                        (moved_x >= 0) & (moved_x < width);
    return exists ? moved_y * width + moved_x : -1;
  }

  int32_t height, width, side, dilation;
  float inverse_side;
  int32_t first_dy, first_dx;  // from a pixel to candidate 0
};

}  // namespace mfvis
