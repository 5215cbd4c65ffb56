// The mean of the sums that the kernels of tk_loss and pairwise_loss compute: one mean per column (a pair of frames),
// and the sum of these means.
#pragma once

#include <cstdint>

#include "../common/kernel.h"

namespace mfvis {

struct MeanOfTerms {
  int64_t rows;
  int64_t columns;
  bool in_double;  // dtype of all values: double, else float
};

// loss = sum over columns of (the column's sum of loss_sum / divisor), divisor = max(the column's sum of weight_sum,
// 1). loss_sum, weight_sum: [rows, columns]; divisor: [columns]; loss: a scalar.
inline Kernel<void(const MeanOfTerms&, const void* loss_sum, const void* weight_sum, void* loss, void* divisor)>
    mean_of_terms_kernel{"mean_of_terms"};

// grad_loss_sum = grad_loss / divisor, the same in every row.
inline Kernel<void(const MeanOfTerms&, const void* grad_loss, const void* divisor, void* grad_loss_sum)>
    mean_of_terms_backward_kernel{"mean_of_terms"};

}  // namespace mfvis
