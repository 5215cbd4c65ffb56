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

// What the forward pass keeps for the backward pass: of each row, then of each column, the maximum of the probabilities
// and where it is first (of a row the column, of a column the row). The logits themselves are not needed again.
struct BoxProfiles {
  void* p;            // [N, T, H + W] of the compute type of the logits
  int32_t* position;  // [N, T, H + W]
};

// loss: a scalar of the compute type of the logits; per_frame: float64 [N, T], scratch.
inline Kernel<void(const BoxProjection&, const BoxProfiles&, void* loss, double* per_frame)>
    box_projection_terms_kernel{"box_projection_loss"};

// grad_loss: a scalar of the compute type; grad_logits: as the logits, written whole. The logits are not read.
inline Kernel<void(const BoxProjection&, const BoxProfiles&, const void* grad_loss, void* grad_logits)>
    box_projection_terms_backward_kernel{"box_projection_loss"};

}  // namespace mfvis
