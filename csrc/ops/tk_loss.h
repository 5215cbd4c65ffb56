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
  void* scratch;  // tk_loss_scratch_bytes() of the CUDA kernels; null on the CPU
};

// Sizes of the CUDA kernels' scratch memory, drawn in csrc/ops/cuda/tk_loss_kernel.cu: of its first part, and in total
// for the forward pass and for the backward pass.
inline int64_t tk_loss_counted_bytes(const TkLoss& args) {
  return round_up(ceil_div(args.instances, 32) * args.height * args.width * 4, 16);
}
struct TkLossScratch {
  int64_t forward;
  int64_t backward;
};
inline TkLossScratch tk_loss_scratch_bytes(const TkLoss& args) {
  const int64_t area = args.height * args.width, tiles = ceil_div(area, 256), counted = tk_loss_counted_bytes(args);
  return {counted + args.instances * args.pair_count * tiles * 16,
          counted + args.videos * args.pair_count * (4 + area * 8 * (1 + args.matches))};
}

// loss_sum, weight_sum: [N, P] of the compute type of the logits, completely written.
inline Kernel<void(const TkLoss&, void* loss_sum, void* weight_sum)> tk_loss_terms_kernel{"tk_loss_terms"};

// grad_loss_sum: [N, P] of the compute type; grad_logits: [N, T, H, W] of the dtype of the logits, completely written.
inline Kernel<void(const TkLoss&, const void* grad_loss_sum, void* grad_logits)> tk_loss_terms_backward_kernel{
    "tk_loss_terms_backward"};

}  // namespace mfvis
