#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

struct TemporalTopk {
  const void* frames;  // [B, T, C, H, W] of dtype
  Dtype dtype;
  const int64_t* pairs;  // [P, 2]: target, source
  const int64_t* shift;  // [B, P, 2]: dy, dx in pixels; or null
  int64_t videos;
  int64_t frame_count;
  int64_t channels;
  int64_t height;
  int64_t width;
  int64_t pair_count;
  int64_t patch_size;
  int64_t radius;
  int64_t dilation;
  int64_t k;
  float* padded;    // scratch [B, T, C, H + patch_size - 1, W + patch_size - 1], for the CPU kernel
  float* distance;  // [B, P, k, H, W]
  int16_t* offset;  // [B, P, k, H, W]
};

inline Kernel<void(const TemporalTopk&)> temporal_topk_kernel{"temporal_topk"};

}  // namespace mfvis
