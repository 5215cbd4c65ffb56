#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

struct RgbToLab {
  const void* images;  // [count, 3, H, W] of dtype, 0..255
  Dtype dtype;
  int64_t count;
  int64_t height;
  int64_t width;
  int64_t downsample;
  float* lab;  // [count, 3, H / downsample, W / downsample]
};

inline Kernel<void(const RgbToLab&)> rgb_to_lab_kernel{"rgb_to_lab"};

}  // namespace mfvis
