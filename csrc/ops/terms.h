// The kernels of tk_loss and pairwise_loss compute sums of losses and of weights, [rows, columns] each. For tk_loss a
// row is an instance and a column a pair of frames; pairwise_loss has a single column.
#pragma once

#include <tuple>

#include "../common/check.h"
#include "../common/tensor.h"

namespace mfvis {

// The loss (mean_of_terms.h) and its divisor [columns] for the backward pass. The sums must be contiguous.
std::tuple<Tensor, Tensor> mean_of_terms(const Tensor& loss_sum, const Tensor& weight_sum, int64_t columns);

// The gradient with respect to the sums of losses, of shape `sizes`.
Tensor mean_of_terms_backward(const Check& check, const Tensor& grad_loss, const Tensor& divisor,
                              IntHeaderOnlyArrayRef sizes, int64_t columns);

}  // namespace mfvis
