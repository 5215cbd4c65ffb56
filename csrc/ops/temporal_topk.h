#pragma once

#include <cstdint>

#include "../common/arithmetic.h"
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
  float* padded;    // scratch [B, T, C, H + patch_size - 1, temporal_topk_stride()], for the CPU kernel
  float* distance;  // [B, P, k, H, W]
  int16_t* offset;  // [B, P, k, H, W]
};

// The stride of the rows of padded frames: whole vectors of the CPU kernel, and of a cache line.
constexpr int64_t temporal_topk_stride(int64_t width, int64_t patch_size) {
  return round_up(width + patch_size - 1, 16);
}

inline Kernel<void(const TemporalTopk&)> temporal_topk_kernel{"temporal_topk"};

}  // namespace mfvis
