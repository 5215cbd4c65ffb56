#include "../mean_of_terms.h"

namespace mfvis {
namespace {

template <typename C>
void mean(const MeanOfTerms& args, const C* loss_sum, const C* weight_sum, C* loss, C* divisor) {
  double total = 0;
  for (int64_t column = 0; column < args.columns; ++column) {
    double losses = 0, weights = 0;
    for (int64_t at = column; at < args.rows * args.columns; at += args.columns) {
      losses += static_cast<double>(loss_sum[at]);
      weights += static_cast<double>(weight_sum[at]);
    }
    divisor[column] = static_cast<C>(weights > 1 ? weights : 1);
    total += losses / static_cast<double>(divisor[column]);
  }
  *loss = static_cast<C>(total);
}

template <typename C>
void broadcast_grad(const MeanOfTerms& args, C grad_loss, const C* divisor, C* grad_loss_sum) {
  for (int64_t row = 0; row < args.rows; ++row) {
    for (int64_t column = 0; column < args.columns; ++column) *grad_loss_sum++ = grad_loss / divisor[column];
  }
}

void mean_of_terms(const MeanOfTerms& args, const void* loss_sum, const void* weight_sum, void* loss, void* divisor) {
  const auto in = [&](auto zero) {
    using C = decltype(zero);
    mean(args, static_cast<const C*>(loss_sum), static_cast<const C*>(weight_sum), static_cast<C*>(loss),
         static_cast<C*>(divisor));
  };
  args.in_double ? in(0.0) : in(0.0f);
}

void mean_of_terms_backward(const MeanOfTerms& args, const void* grad_loss, const void* divisor, void* grad_loss_sum) {
  const auto in = [&](auto zero) {
    using C = decltype(zero);
    broadcast_grad(args, *static_cast<const C*>(grad_loss), static_cast<const C*>(divisor),
                   static_cast<C*>(grad_loss_sum));
  };
  args.in_double ? in(0.0) : in(0.0f);
}

MFVIS_CPU_KERNEL(mean_of_terms_kernel, mean_of_terms)
MFVIS_CPU_KERNEL(mean_of_terms_backward_kernel, mean_of_terms_backward)

}  // namespace
}  // namespace mfvis
