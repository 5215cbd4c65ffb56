#include "box_projection_loss.h"

#include <algorithm>
#include <cstdint>

#include "../common/operator.h"

namespace mfvis {
namespace {

ScalarType loss_type(const Tensor& mask_logits) {
  return mask_logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_arguments(const Check& check, const Tensor& mask_logits, const Tensor& boxes) {
  check.dim("mask_logits", mask_logits, 4, "[N, T, H, W]");
  check.floating("mask_logits", mask_logits);
  const int64_t longest = std::max(mask_logits.size(2), mask_logits.size(3));
  check.that(longest <= INT32_MAX, "mask_logits", "has an axis of " + std::to_string(longest), "H and W below 2^31");
  check.sizes("boxes", boxes, {mask_logits.size(0), mask_logits.size(1), 4}, "[N, T, 4]");
  check.dtype("boxes", boxes, {ScalarType::Float});
  check.same_device("boxes", boxes, "mask_logits", mask_logits);
}

BoxProjection arguments(const Tensor& logits, const Tensor& boxes) {
  return {logits.const_data_ptr(), dtype_of(logits), boxes.const_data_ptr<float>(), logits.size(0), logits.size(1),
          logits.size(2),          logits.size(3)};
}

}  // namespace

Tensor box_projection_loss(const Tensor& mask_logits, const Tensor& boxes) {
  check_arguments(Check("box_projection_loss"), mask_logits, boxes);
  Tensor loss = torch::stable::new_zeros(mask_logits, {}, loss_type(mask_logits));
  if (mask_logits.numel() == 0) return loss;
  const Tensor logits = torch::stable::contiguous(mask_logits), tight_boxes = torch::stable::contiguous(boxes);
  const Tensor per_frame = torch::stable::new_empty(logits, {logits.size(0), logits.size(1)}, ScalarType::Double);
  box_projection_loss_kernel.on(logits)(arguments(logits, tight_boxes), loss.mutable_data_ptr(),
                                        per_frame.mutable_data_ptr<double>());
  return loss;
}

Tensor box_projection_loss_backward(const Tensor& grad_loss, const Tensor& mask_logits, const Tensor& boxes) {
  const Check check("box_projection_loss_backward");
  check_arguments(check, mask_logits, boxes);
  check.sizes("grad_loss", grad_loss, {}, "a scalar");
  check.dtype("grad_loss", grad_loss, {loss_type(mask_logits)});
  check.same_device("grad_loss", grad_loss, "mask_logits", mask_logits);
  Tensor grad_logits =
      torch::stable::new_empty(mask_logits, mask_logits.sizes());  // contiguous, whatever the strides of the logits
  if (mask_logits.numel() == 0) return grad_logits;
  const Tensor logits = torch::stable::contiguous(mask_logits), tight_boxes = torch::stable::contiguous(boxes);
  box_projection_loss_backward_kernel.on(logits)(arguments(logits, tight_boxes), grad_loss.const_data_ptr(),
                                                 grad_logits.mutable_data_ptr());
  return grad_logits;
}

MFVIS_OPERATOR(box_projection_loss, "(Tensor mask_logits, Tensor boxes) -> Tensor")
MFVIS_OPERATOR(box_projection_loss_backward, "(Tensor grad_loss, Tensor mask_logits, Tensor boxes) -> Tensor")

}  // namespace mfvis
