// What tk_loss and pairwise_loss make of the sums of their kernels: the mean over everything of one column, that is one
// pair of frames, and the sum of the columns' means.
#pragma once

#include <cstdint>

#include "../common/kernel.h"

namespace mfvis {

struct MeanOfTerms {
  int64_t rows;
  int64_t columns;
  bool in_double;  // the type of all numbers here; else float
};

// loss = sum over columns of (the column's sum of loss_sum / divisor), divisor = max(the column's sum of weight_sum,
// 1). loss_sum, weight_sum: [rows, columns]; divisor: [columns]; loss: a scalar.
inline Kernel<void(const MeanOfTerms&, const void* loss_sum, const void* weight_sum, void* loss, void* divisor)>
    mean_of_terms_kernel{"mean_of_terms"};

// grad_loss_sum = grad_loss / divisor in every row.
inline Kernel<void(const MeanOfTerms&, const void* grad_loss, const void* divisor, void* grad_loss_sum)>
    mean_of_terms_backward_kernel{"mean_of_terms"};

}  // namespace mfvis
