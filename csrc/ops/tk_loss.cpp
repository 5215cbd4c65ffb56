#include "tk_loss.h"

#include <algorithm>
#include <cstdint>

#include "../common/operator.h"
#include "match_geometry.h"
#include "terms.h"

namespace mfvis {
namespace {

// The checked, contiguous tensors of one call. They outlive the kernel.
struct Arguments {
  Tensor logits, offset, weight, pairs, boxes, video_index;
  std::optional<Tensor> shift;
  int64_t radius, dilation;

  // Scratch memory of the CUDA kernels, empty for the CPU kernels.
  Tensor scratch(int64_t TkLossScratch::* pass) const {
    const int64_t bytes = runs_cuda_kernels(logits) ? tk_loss_scratch_bytes(pointers()).*pass : 0;
    return make_empty(logits, {bytes}, ScalarType::Byte);
  }

  TkLoss pointers(void* scratch = nullptr) const {
    return {logits.const_data_ptr(),
            dtype_of(logits),
            offset.const_data_ptr<int16_t>(),
            weight.const_data_ptr<float>(),
            pairs.const_data_ptr<int64_t>(),
            boxes.const_data_ptr<float>(),
            video_index.const_data_ptr<int64_t>(),
            shift ? shift->const_data_ptr<int64_t>() : nullptr,
            offset.size(0),
            logits.size(0),
            logits.size(1),
            logits.size(2),
            logits.size(3),
            pairs.size(0),
            offset.size(2),
            radius,
            dilation,
            scratch};
  }
};

Arguments checked(const Check& check, const Tensor& mask_logits, const Tensor& offset, const Tensor& weight,
                  const Tensor& pairs, const Tensor& boxes, const Tensor& video_index, int64_t radius, int64_t dilation,
                  const std::optional<Tensor>& shift) {
  check.dim("mask_logits", mask_logits, 4, "[N, T, H, W]");
  check.floating("mask_logits", mask_logits);
  const int64_t frames = mask_logits.size(1), height = mask_logits.size(2), width = mask_logits.size(3);
  check.sizes("pairs", pairs, {-1, 2}, "[P, 2]");
  check.sizes("offset", offset, {-1, pairs.size(0), -1, height, width}, "[B, P, K, H, W]");
  check.dtype("offset", offset, {ScalarType::Short});
  check.same_device("offset", offset, "mask_logits", mask_logits);
  check.sizes("weight", weight, {offset.size(0), offset.size(1), offset.size(2), height, width}, "the shape of offset");
  check.dtype("weight", weight, {ScalarType::Float});
  check.same_device("weight", weight, "mask_logits", mask_logits);
  check.sizes("boxes", boxes, {mask_logits.size(0), frames, 4}, "[N, T, 4]");
  check.dtype("boxes", boxes, {ScalarType::Float});
  check.same_device("boxes", boxes, "mask_logits", mask_logits);
  const Tensor own_pairs = as_private(pairs), own_video_index = as_private(video_index);
  check_match_geometry(check, mask_logits, "mask_logits", own_pairs, shift, offset.size(0), frames, height, width,
                       radius, dilation);
  check_video_index(check, mask_logits, own_video_index, offset.size(0));
  check.that(offset.size(2) <= INT32_MAX / std::max<int64_t>(height * width, 1), "offset",
             "has shape " + shape_of(offset), "K·H·W below 2^31");
  check.that(frames <= INT32_MAX / std::max<int64_t>(height * width, 1), "mask_logits",
             "has shape " + shape_of(mask_logits), "T·H·W below 2^31");
  return {as_contiguous(mask_logits),
          as_contiguous(offset),
          as_contiguous(weight),
          own_pairs,
          as_private(boxes),
          own_video_index,
          as_private(shift),
          radius,
          dilation};
}

std::tuple<Tensor, Tensor> sums_of(const Arguments& arguments) {
  const Tensor& logits = arguments.logits;
  const std::initializer_list<int64_t> shape{logits.size(0), arguments.pairs.size(0)};
  const ScalarType type = compute_type(logits);
  if (logits.numel() == 0 || arguments.pairs.size(0) == 0) {
    return {make_zeros(logits, shape, type), make_zeros(logits, shape, type)};
  }
  Tensor loss_sum = make_empty(logits, shape, type), weight_sum = make_empty(logits, shape, type);
  const Tensor scratch = arguments.scratch(&TkLossScratch::forward);
  tk_loss_terms_kernel.on(logits)(arguments.pointers(scratch.mutable_data_ptr()), loss_sum.mutable_data_ptr(),
                                  weight_sum.mutable_data_ptr());
  return {loss_sum, weight_sum};
}

Tensor gradient(const Check& check, const Arguments& arguments, const Tensor& grad_loss_sum) {
  const Tensor& logits = arguments.logits;
  check.sizes("grad_loss_sum", grad_loss_sum, {logits.size(0), arguments.pairs.size(0)}, "[N, P]");
  check.dtype("grad_loss_sum", grad_loss_sum, {compute_type(logits)});
  check.same_device("grad_loss_sum", grad_loss_sum, "mask_logits", logits);
  Tensor grad_logits = make_empty(logits, logits.sizes());
  if (logits.numel() == 0) return grad_logits;
  const Tensor tight_grad = as_contiguous(grad_loss_sum), scratch = arguments.scratch(&TkLossScratch::backward);
  tk_loss_terms_backward_kernel.on(logits)(arguments.pointers(scratch.mutable_data_ptr()), tight_grad.const_data_ptr(),
                                           grad_logits.mutable_data_ptr());
  return grad_logits;
}

}  // namespace

std::tuple<Tensor, Tensor> tk_loss_terms(const Tensor& mask_logits, const Tensor& offset, const Tensor& weight,
                                         const Tensor& pairs, const Tensor& boxes, const Tensor& video_index,
                                         int64_t radius, int64_t dilation, std::optional<Tensor> shift) {
  return sums_of(
      checked(Check("tk_loss_terms"), mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift));
}

Tensor tk_loss_terms_backward(const Tensor& grad_loss_sum, const Tensor& mask_logits, const Tensor& offset,
                              const Tensor& weight, const Tensor& pairs, const Tensor& boxes, const Tensor& video_index,
                              int64_t radius, int64_t dilation, std::optional<Tensor> shift) {
  const Check check("tk_loss_terms_backward");
  return gradient(check,
                  checked(check, mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift),
                  grad_loss_sum);
}

// The loss, and its divisor [P] for the backward pass.
std::tuple<Tensor, Tensor> tk_loss_mean(const Tensor& mask_logits, const Tensor& offset, const Tensor& weight,
                                        const Tensor& pairs, const Tensor& boxes, const Tensor& video_index,
                                        int64_t radius, int64_t dilation, std::optional<Tensor> shift) {
  const auto [loss_sum, weight_sum] = sums_of(
      checked(Check("tk_loss"), mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift));
  return mean_of_terms(loss_sum, weight_sum, pairs.size(0));
}

Tensor tk_loss_mean_backward(const Tensor& grad_loss, const Tensor& divisor, const Tensor& mask_logits,
                             const Tensor& offset, const Tensor& weight, const Tensor& pairs, const Tensor& boxes,
                             const Tensor& video_index, int64_t radius, int64_t dilation, std::optional<Tensor> shift) {
  const Check check("tk_loss_mean_backward");
  const Arguments arguments =
      checked(check, mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift);
  const int64_t columns = pairs.size(0);
  return gradient(check, arguments,
                  mean_of_terms_backward(check, grad_loss, divisor, {mask_logits.size(0), columns}, columns));
}

MFVIS_OPERATOR(tk_loss_terms,
               "(Tensor mask_logits, Tensor offset, Tensor weight, Tensor pairs, Tensor boxes, Tensor video_index, "
               "int radius=5, int dilation=1, Tensor? shift=None) -> (Tensor, Tensor)")
MFVIS_OPERATOR(tk_loss_terms_backward,
               "(Tensor grad_loss_sum, Tensor mask_logits, Tensor offset, Tensor weight, Tensor pairs, Tensor boxes, "
               "Tensor video_index, int radius, int dilation, Tensor? shift) -> Tensor")
MFVIS_OPERATOR(tk_loss_mean,
               "(Tensor mask_logits, Tensor offset, Tensor weight, Tensor pairs, Tensor boxes, Tensor video_index, "
               "int radius, int dilation, Tensor? shift) -> (Tensor, Tensor)")
MFVIS_OPERATOR(tk_loss_mean_backward,
               "(Tensor grad_loss, Tensor divisor, Tensor mask_logits, Tensor offset, Tensor weight, Tensor pairs, "
               "Tensor boxes, Tensor video_index, int radius, int dilation, Tensor? shift) -> Tensor")

}  // namespace mfvis
