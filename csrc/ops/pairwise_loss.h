#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

struct PairwiseLoss {
  const void* logits;  // [N, T, H, W] of dtype
  Dtype dtype;
  const float* colours;        // [B, T, 3, H, W], LAB
  const float* boxes;          // [N, T, 4]
  const int64_t* video_index;  // [N]
  int64_t videos;
  int64_t instances;
  int64_t frames;
  int64_t height;
  int64_t width;
  int64_t kernel_size;
  int64_t dilation;
  float max_squared_distance;  // of two colours that are still alike
  void* scratch;               // [N, T, tiles, 2] of the compute type for the forward pass on CUDA; null on the CPU
};

// Of 32 x 8 pixels, of which a block of the CUDA kernels takes one.
inline int64_t pairwise_loss_tiles(const PairwiseLoss& args) {
  return (args.width + 31) / 32 * ((args.height + 7) / 8);
}

// loss_sum, count: [N, T] of the compute type of the logits, written whole.
inline Kernel<void(const PairwiseLoss&, void* loss_sum, void* count)> pairwise_loss_terms_kernel{"pairwise_loss"};

// grad_loss_sum: [N, T] of the compute type; grad_logits: as the logits, written whole.
inline Kernel<void(const PairwiseLoss&, const void* grad_loss_sum, void* grad_logits)>
    pairwise_loss_terms_backward_kernel{"pairwise_loss"};

}  // namespace mfvis
