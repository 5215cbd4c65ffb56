#pragma once

#include <cstdint>

#include "../common/arithmetic.h"
#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

struct TkLoss {
  const void* logits;  // [N, T, H, W] of dtype
  Dtype dtype;
  const int16_t* offset;       // [B, P, K, H, W]
  const float* weight;         // [B, P, K, H, W]
  const int64_t* pairs;        // [P, 2]: target, source
  const float* boxes;          // [N, T, 4]
  const int64_t* video_index;  // [N]
  const int64_t* shift;        // [B, P, 2]: dy, dx in pixels; or null
  int64_t videos;
  int64_t instances;
  int64_t frames;
  int64_t height;
  int64_t width;
  int64_t pair_count;
  int64_t matches;
  int64_t radius;
  int64_t dilation;

  // Of the CUDA kernels only, drawn there.
  uint32_t* counted;  // [N / 32, H, W]: the forward pass writes it, the backward pass reads it
  void* partial;      // [N, P, H·W / 256, 2] of the compute type: forward pass
  uint32_t* chosen;   // [B, P, chosen_words, H, W] zeros: backward pass
  int32_t chosen_words, candidates_per_bit;
};

constexpr int64_t pixels_of_tk_loss_tile = 256;

// loss_sum, weight_sum: [N, P] of the compute type of the logits, completely written.
inline Kernel<void(const TkLoss&, void* loss_sum, void* weight_sum)> tk_loss_terms_kernel{"tk_loss_terms"};

// grad_loss_sum: [N, P] of the compute type; grad_logits: [N, T, H, W] of the dtype of the logits, completely written.
inline Kernel<void(const TkLoss&, const void* grad_loss_sum, void* grad_logits)> tk_loss_terms_backward_kernel{
    "tk_loss_terms_backward"};

}  // namespace mfvis
