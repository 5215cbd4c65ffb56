// The kernels of tk_loss and pairwise_loss leave sums of losses and of weights, [rows, columns] each: of tk_loss a row
// for every instance and a column for every pair of frames, of pairwise_loss a single column.
#pragma once

#include <tuple>

#include "../common/check.h"
#include "../common/tensor.h"

namespace mfvis {

// The loss, see mean_of_terms.h, and its divisor [columns], which the backward pass needs. Contiguous sums only.
std::tuple<Tensor, Tensor> mean_of_terms(const Tensor& loss_sum, const Tensor& weight_sum, int64_t columns);

// The gradient by the sums of losses, of shape `sizes`.
Tensor mean_of_terms_backward(const Check& check, const Tensor& grad_loss, const Tensor& divisor,
                              IntHeaderOnlyArrayRef sizes, int64_t columns);

}  // namespace mfvis
