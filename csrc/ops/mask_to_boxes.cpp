#include "mask_to_boxes.h"

#include "../common/operator.h"

namespace mfvis {

Tensor mask_to_boxes(const Tensor& mask_logits, double threshold) {
  const Check check("mask_to_boxes");
  check.dim("mask_logits", mask_logits, 4, "[N, T, H, W]");
  check.floating("mask_logits", mask_logits);
  const int64_t instances = mask_logits.size(0), frames = mask_logits.size(1);
  Tensor boxes = make_zeros(mask_logits, {instances, frames, 4}, ScalarType::Float);
  if (mask_logits.numel() == 0) return boxes;
  const Tensor logits = as_contiguous(mask_logits);
  mask_to_boxes_kernel.on(logits)({logits.const_data_ptr(), dtype_of(logits), instances * frames, logits.size(2),
                                   logits.size(3), threshold, boxes.mutable_data_ptr<float>()});
  return boxes;
}

MFVIS_OPERATOR(mask_to_boxes, "(Tensor mask_logits, float threshold=0.0) -> Tensor")

}  // namespace mfvis
