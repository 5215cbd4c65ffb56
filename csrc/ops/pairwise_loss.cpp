#include "pairwise_loss.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "../common/operator.h"
#include "match_geometry.h"
#include "terms.h"

namespace mfvis {
namespace {

// exp(-d / 2) >= threshold as a bound on d². Negative if no colors are similar.
float max_squared_distance(double threshold) {
  if (threshold <= 0) return std::numeric_limits<float>::infinity();
  const double distance = -2 * std::log(threshold);
  return distance < 0 ? -1.0f : static_cast<float>(distance * distance);
}

// The checked, contiguous tensors of one call. They outlive the kernel.
struct Arguments {
  Tensor logits, colors, boxes, video_index;
  int64_t kernel_size, dilation;
  double threshold;

  PairwiseLoss pointers(void* scratch = nullptr, bool add = false) const {
    return {logits.const_data_ptr(),
            dtype_of(logits),
            colors.const_data_ptr<float>(),
            boxes.const_data_ptr<float>(),
            video_index.const_data_ptr<int64_t>(),
            colors.size(0),
            logits.size(0),
            logits.size(1),
            logits.size(2),
            logits.size(3),
            kernel_size,
            dilation,
            max_squared_distance(threshold),
            scratch,
            add};
  }
};

Arguments checked(const Check& check, const Tensor& mask_logits, const Tensor& frames, const Tensor& boxes,
                  const Tensor& video_index, int64_t kernel_size, int64_t dilation, double threshold) {
  check.dim("mask_logits", mask_logits, 4, "[N, T, H, W]");
  check.floating("mask_logits", mask_logits);
  check.sizes("frames", frames, {-1, mask_logits.size(1), 3, mask_logits.size(2), mask_logits.size(3)},
              "[B, T, 3, H, W]");
  check.dtype("frames", frames, {ScalarType::Float});
  check.same_device("frames", frames, "mask_logits", mask_logits);
  check.sizes("boxes", boxes, {mask_logits.size(0), mask_logits.size(1), 4}, "[N, T, 4]");
  check.dtype("boxes", boxes, {ScalarType::Float});
  check.same_device("boxes", boxes, "mask_logits", mask_logits);
  const Tensor own_video_index = as_private(video_index);
  check_video_index(check, mask_logits, own_video_index, frames.size(0));
  check.that(mask_logits.size(2) <= INT32_MAX / std::max<int64_t>(mask_logits.size(3), 1), "mask_logits",
             "has shape " + shape_of(mask_logits), "H·W below 2^31");
  check.that(kernel_size >= 1 && kernel_size % 2 == 1 && kernel_size < 256, "kernel_size",
             "is " + std::to_string(kernel_size), "an odd number, 1 to 255");
  check.that(dilation >= 1 && dilation <= 16384, "dilation", "is " + std::to_string(dilation), "1 to 16384");
  check.that(!std::isnan(threshold), "threshold", "is nan", "a number");
  return {as_contiguous(mask_logits),
          as_contiguous(frames),
          as_private(boxes),
          own_video_index,
          kernel_size,
          dilation,
          threshold};
}

// Writes the gradient of the logits, or adds to it.
void gradient(const Check& check, const Arguments& arguments, const Tensor& grad_loss, const Tensor& divisor, bool add,
              Tensor& grad_logits) {
  const Tensor& logits = arguments.logits;
  check.dtype("divisor", divisor, {compute_type(logits)});
  check.same_device("divisor", divisor, "mask_logits", logits);
  const Tensor grad_loss_sum = mean_of_terms_backward(check, grad_loss, divisor, {logits.size(0), logits.size(1)}, 1);
  if (logits.numel() == 0) return;
  pairwise_loss_terms_backward_kernel.on(logits)(arguments.pointers(nullptr, add), grad_loss_sum.const_data_ptr(),
                                                 grad_logits.mutable_data_ptr());
}

}  // namespace

// The loss, and its divisor for the backward pass.
std::tuple<Tensor, Tensor> pairwise_loss_mean(const Tensor& mask_logits, const Tensor& frames, const Tensor& boxes,
                                              const Tensor& video_index, int64_t kernel_size, int64_t dilation,
                                              double threshold) {
  const Arguments arguments =
      checked(Check("pairwise_loss"), mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold);
  const std::initializer_list<int64_t> shape{mask_logits.size(0), mask_logits.size(1)};
  const ScalarType type = compute_type(mask_logits);
  if (mask_logits.numel() == 0) {
    return mean_of_terms(make_zeros(mask_logits, shape, type), make_zeros(mask_logits, shape, type), 1);
  }
  Tensor loss_sum = make_empty(mask_logits, shape, type), count = make_empty(mask_logits, shape, type);
  const int64_t partial = runs_cuda_kernels(mask_logits) ? pairwise_loss_tiles(arguments.pointers()) : 0;
  Tensor scratch = make_empty(mask_logits, {mask_logits.size(0), mask_logits.size(1), partial, 2}, type);
  pairwise_loss_terms_kernel.on(mask_logits)(arguments.pointers(scratch.mutable_data_ptr()),
                                             loss_sum.mutable_data_ptr(), count.mutable_data_ptr());
  return mean_of_terms(loss_sum, count, 1);
}

Tensor pairwise_loss_mean_backward(const Tensor& grad_loss, const Tensor& divisor, const Tensor& mask_logits,
                                   const Tensor& frames, const Tensor& boxes, const Tensor& video_index,
                                   int64_t kernel_size, int64_t dilation, double threshold) {
  const Check check("pairwise_loss_mean_backward");
  const Arguments arguments = checked(check, mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold);
  Tensor grad_logits = make_empty(mask_logits, mask_logits.sizes());
  gradient(check, arguments, grad_loss, divisor, false, grad_logits);
  return grad_logits;
}

void pairwise_loss_mean_add_gradient(Tensor grad_logits, const Tensor& grad_loss, const Tensor& divisor,
                                     const Tensor& mask_logits, const Tensor& frames, const Tensor& boxes,
                                     const Tensor& video_index, int64_t kernel_size, int64_t dilation,
                                     double threshold) {
  const Check check("pairwise_loss_mean_add_gradient");
  const Arguments arguments = checked(check, mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold);
  check.sizes("grad_logits", grad_logits,
              {mask_logits.size(0), mask_logits.size(1), mask_logits.size(2), mask_logits.size(3)},
              "the shape of mask_logits");
  check.dtype("grad_logits", grad_logits, {mask_logits.scalar_type()});
  check.same_device("grad_logits", grad_logits, "mask_logits", mask_logits);
  check.contiguous("grad_logits", grad_logits);
  gradient(check, arguments, grad_loss, divisor, true, grad_logits);
}

MFVIS_OPERATOR(pairwise_loss_mean,
               "(Tensor mask_logits, Tensor frames, Tensor boxes, Tensor video_index, int kernel_size, int dilation, "
               "float threshold) -> (Tensor, Tensor)")
MFVIS_OPERATOR(pairwise_loss_mean_backward,
               "(Tensor grad_loss, Tensor divisor, Tensor mask_logits, Tensor frames, Tensor boxes, "
               "Tensor video_index, int kernel_size, int dilation, float threshold) -> Tensor")
MFVIS_OPERATOR(pairwise_loss_mean_add_gradient,
               "(Tensor(a!) grad_logits, Tensor grad_loss, Tensor divisor, Tensor mask_logits, Tensor frames, "
               "Tensor boxes, Tensor video_index, int kernel_size, int dilation, float threshold) -> ()")

}  // namespace mfvis
