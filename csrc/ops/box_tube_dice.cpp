#include "box_tube_dice.h"

#include "../common/operator.h"

namespace mfvis {

Tensor box_tube_dice(const Tensor& boxes_a, const Tensor& boxes_b) {
  const Check check("box_tube_dice");
  check.sizes("boxes_a", boxes_a, {-1, -1, 4}, "[A, T, 4]");
  check.sizes("boxes_b", boxes_b, {-1, boxes_a.size(1), 4}, "[B, T, 4]");
  check.dtype("boxes_a", boxes_a, {ScalarType::Float});
  check.dtype("boxes_b", boxes_b, {ScalarType::Float});
  check.same_device("boxes_b", boxes_b, "boxes_a", boxes_a);

  const int64_t count_a = boxes_a.size(0), count_b = boxes_b.size(0);
  Tensor dice = make_empty(boxes_a, {count_a, count_b});
  const Tensor a = as_contiguous(boxes_a), b = as_contiguous(boxes_b);
  box_tube_dice_kernel.on(boxes_a)({a.const_data_ptr<float>(), b.const_data_ptr<float>(), count_a, count_b,
                                    boxes_a.size(1), dice.mutable_data_ptr<float>()});
  return dice;
}

MFVIS_OPERATOR(box_tube_dice, "(Tensor boxes_a, Tensor boxes_b) -> Tensor")

}  // namespace mfvis
