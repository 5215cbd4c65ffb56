#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

struct BoxProjection {
  const void* logits;  // [N, T, H, W] of dtype
  Dtype dtype;
  const float* boxes;  // [N, T, 4]
  int64_t instances;
  int64_t frames;
  int64_t height;
  int64_t width;
};

// loss: a scalar of the compute type of the logits; per_frame: float64 [N, T], scratch.
inline Kernel<void(const BoxProjection&, void* loss, double* per_frame)> box_projection_loss_kernel{
    "box_projection_loss"};

// grad_loss: a scalar of the compute type; grad_logits: as the logits, written whole.
inline Kernel<void(const BoxProjection&, const void* grad_loss, void* grad_logits)> box_projection_loss_backward_kernel{
    "box_projection_loss_backward"};

}  // namespace mfvis
