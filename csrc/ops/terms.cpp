#include "terms.h"

#include "mean_of_terms.h"

namespace mfvis {
namespace {

MeanOfTerms arguments(const Tensor& sums, int64_t columns) {
  return {columns > 0 ? sums.numel() / columns : 0, columns, sums.scalar_type() == ScalarType::Double};
}

}  // namespace

std::tuple<Tensor, Tensor> mean_of_terms(const Tensor& loss_sum, const Tensor& weight_sum, int64_t columns) {
  Tensor loss = make_empty(loss_sum, {}), divisor = make_empty(loss_sum, {columns});
  mean_of_terms_kernel.on(loss_sum)(arguments(loss_sum, columns), loss_sum.const_data_ptr(),
                                    weight_sum.const_data_ptr(), loss.mutable_data_ptr(), divisor.mutable_data_ptr());
  return {loss, divisor};
}

Tensor mean_of_terms_backward(const Check& check, const Tensor& grad_loss, const Tensor& divisor,
                              IntHeaderOnlyArrayRef sizes, int64_t columns) {
  check.sizes("divisor", divisor, {columns}, "one for each mean");
  check.dtype("divisor", divisor, {ScalarType::Float, ScalarType::Double});
  check.sizes("grad_loss", grad_loss, {}, "a scalar");
  check.dtype("grad_loss", grad_loss, {divisor.scalar_type()});
  check.same_device("grad_loss", grad_loss, "divisor", divisor);
  Tensor grad_loss_sum = make_empty(divisor, sizes);
  const Tensor tight_divisor = as_contiguous(divisor);
  mean_of_terms_backward_kernel.on(divisor)(arguments(grad_loss_sum, columns), grad_loss.const_data_ptr(),
                                            tight_divisor.const_data_ptr(), grad_loss_sum.mutable_data_ptr());
  return grad_loss_sum;
}

}  // namespace mfvis
