#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

struct PatchDistance {
  const void* target;  // [B, C, H, W] of dtype
  const void* source;  // [B, C, H, W] of dtype
  Dtype dtype;
  int64_t batch;
  int64_t channels;
  int64_t height;
  int64_t width;
  int64_t patch_size;
  int64_t radius;
  int64_t dilation;
  // Scratch of the compute type, for the CPU kernels: target, then source, [2, B, C, H + patch_size - 1,
  // W + patch_size - 1].
  void* padded;
};

// distance: [B, S², H, W] of the compute type of dtype.
inline Kernel<void(const PatchDistance&, void* distance)> patch_distance_kernel{"patch_distance"};

// grad_distance and distance: [B, S², H, W] of the compute type. grad: shape and dtype of the source or of the target,
// completely written.
inline Kernel<void(const PatchDistance&, const void* grad_distance, const void* distance, bool of_source, void* grad)>
    patch_distance_backward_kernel{"patch_distance_backward"};

}  // namespace mfvis
