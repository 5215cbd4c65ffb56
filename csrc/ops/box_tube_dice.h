#pragma once

#include <cstdint>

#include "../common/kernel.h"

namespace mfvis {

struct BoxTubeDice {
  const float* boxes_a;  // [A, T, 4]
  const float* boxes_b;  // [B, T, 4]
  int64_t count_a;
  int64_t count_b;
  int64_t frames;
  float* dice;  // [A, B]
};

inline Kernel<void(const BoxTubeDice&)> box_tube_dice_kernel{"box_tube_dice"};

}  // namespace mfvis
