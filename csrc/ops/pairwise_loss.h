#pragma once

#include <cstdint>

#include "../common/arithmetic.h"
#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

struct PairwiseLoss {
  const void* logits;  // [N, T, H, W] of dtype
  Dtype dtype;
  const float* colors;         // [B, T, 3, H, W], LAB
  const float* boxes;          // [N, T, 4]
  const int64_t* video_index;  // [N]
  int64_t videos;
  int64_t instances;
  int64_t frames;
  int64_t height;
  int64_t width;
  int64_t kernel_size;
  int64_t dilation;
  float max_squared_distance;  // of two similar colors
  void* scratch;               // [N, T, tiles, 2] of the compute type for the forward pass on CUDA; null on the CPU
  bool add;                    // backward pass: add to the gradient instead of writing it completely
};

// Tiles of 32 x 8 pixels, one per block of the CUDA kernels.
inline int64_t pairwise_loss_tiles(const PairwiseLoss& args) {
  return ceil_div(args.width, 32) * ceil_div(args.height, 8);
}

// loss_sum, count: [N, T] of the compute type of the logits, completely written.
inline Kernel<void(const PairwiseLoss&, void* loss_sum, void* count)> pairwise_loss_terms_kernel{"pairwise_loss"};

// grad_loss_sum: [N, T] of the compute type; grad_logits: shape of the logits, completely written unless `add`.
inline Kernel<void(const PairwiseLoss&, const void* grad_loss_sum, void* grad_logits)>
    pairwise_loss_terms_backward_kernel{"pairwise_loss"};

}  // namespace mfvis
