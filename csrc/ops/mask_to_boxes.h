#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

struct MaskToBoxes {
  const void* logits;  // [count, H, W] of dtype
  Dtype dtype;
  int64_t count;
  int64_t height;
  int64_t width;
  double threshold;
  float* boxes;  // [count, 4]
};

inline Kernel<void(const MaskToBoxes&)> mask_to_boxes_kernel{"mask_to_boxes"};

}  // namespace mfvis
