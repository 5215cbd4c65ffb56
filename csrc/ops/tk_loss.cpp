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

  TkLoss pointers() const {
    const int64_t candidates = (2 * radius + 1) * (2 * radius + 1), per_bit = ceil_div(candidates, 256);
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
            nullptr,
            nullptr,
            nullptr,
            static_cast<int32_t>(ceil_div(ceil_div(candidates, per_bit), 32)),
            static_cast<int32_t>(per_bit)};
  }

  // Masks of instances that the CUDA kernels keep for the backward pass; the CPU kernels keep none.
  int64_t masks() const { return runs_cuda_kernels(logits) ? ceil_div(logits.size(0), 32) : 0; }
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

// The sums of losses and of weights, [N, P] each, and for the backward pass `counted` [masks, H, W].
std::tuple<Tensor, Tensor, Tensor> sums_of(const Arguments& arguments) {
  const Tensor& logits = arguments.logits;
  const int64_t pairs = arguments.pairs.size(0), area = logits.size(2) * logits.size(3);
  const std::initializer_list<int64_t> shape{logits.size(0), pairs};
  const ScalarType type = compute_type(logits);
  Tensor counted = make_empty(logits, {arguments.masks(), logits.size(2), logits.size(3)}, ScalarType::Int);
  if (logits.numel() == 0 || pairs == 0) {
    return {make_zeros(logits, shape, type), make_zeros(logits, shape, type), counted};
  }
  Tensor loss_sum = make_empty(logits, shape, type), weight_sum = make_empty(logits, shape, type);
  TkLoss pointers = arguments.pointers();
  std::optional<Tensor> partial;
  if (runs_cuda_kernels(logits)) {
    partial = make_empty(logits, {logits.size(0), pairs, ceil_div(area, pixels_of_tk_loss_tile), 2}, type);
    pointers.counted = static_cast<uint32_t*>(counted.mutable_data_ptr());
    pointers.partial = partial->mutable_data_ptr();
  }
  tk_loss_terms_kernel.on(logits)(pointers, loss_sum.mutable_data_ptr(), weight_sum.mutable_data_ptr());
  return {loss_sum, weight_sum, counted};
}

Tensor gradient(const Check& check, const Arguments& arguments, const Tensor& grad_loss_sum, const Tensor& counted) {
  const Tensor& logits = arguments.logits;
  const int64_t pairs = arguments.pairs.size(0), height = logits.size(2), width = logits.size(3);
  check.sizes("grad_loss_sum", grad_loss_sum, {logits.size(0), pairs}, "[N, P]");
  check.dtype("grad_loss_sum", grad_loss_sum, {compute_type(logits)});
  check.same_device("grad_loss_sum", grad_loss_sum, "mask_logits", logits);
  check.sizes("counted", counted, {arguments.masks(), height, width}, "that of the forward pass");
  check.dtype("counted", counted, {ScalarType::Int});
  check.same_device("counted", counted, "mask_logits", logits);
  Tensor grad_logits = make_empty(logits, logits.sizes());
  if (logits.numel() == 0) return grad_logits;
  const Tensor tight_grad = as_contiguous(grad_loss_sum), tight_counted = as_contiguous(counted);
  TkLoss pointers = arguments.pointers();
  std::optional<Tensor> chosen;
  if (runs_cuda_kernels(logits)) {
    chosen = make_zeros(logits, {pointers.videos, pairs, pointers.chosen_words, height, width}, ScalarType::Int);
    pointers.counted = static_cast<uint32_t*>(const_cast<void*>(tight_counted.const_data_ptr()));
    pointers.chosen = static_cast<uint32_t*>(chosen->mutable_data_ptr());
  }
  tk_loss_terms_backward_kernel.on(logits)(pointers, tight_grad.const_data_ptr(), grad_logits.mutable_data_ptr());
  return grad_logits;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> tk_loss_sums(const Tensor& mask_logits, const Tensor& offset, const Tensor& weight,
                                                const Tensor& pairs, const Tensor& boxes, const Tensor& video_index,
                                                int64_t radius, int64_t dilation, std::optional<Tensor> shift) {
  return sums_of(
      checked(Check("tk_loss_terms"), mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift));
}

Tensor tk_loss_sums_backward(const Tensor& grad_loss_sum, const Tensor& counted, const Tensor& mask_logits,
                             const Tensor& offset, const Tensor& weight, const Tensor& pairs, const Tensor& boxes,
                             const Tensor& video_index, int64_t radius, int64_t dilation, std::optional<Tensor> shift) {
  const Check check("tk_loss_sums_backward");
  return gradient(check,
                  checked(check, mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift),
                  grad_loss_sum, counted);
}

// The loss, and for the backward pass its divisor [P] and `counted`.
std::tuple<Tensor, Tensor, Tensor> tk_loss_mean(const Tensor& mask_logits, const Tensor& offset, const Tensor& weight,
                                                const Tensor& pairs, const Tensor& boxes, const Tensor& video_index,
                                                int64_t radius, int64_t dilation, std::optional<Tensor> shift) {
  const auto [loss_sum, weight_sum, counted] = sums_of(
      checked(Check("tk_loss"), mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift));
  const auto [loss, divisor] = mean_of_terms(loss_sum, weight_sum, pairs.size(0));
  return {loss, divisor, counted};
}

Tensor tk_loss_mean_backward(const Tensor& grad_loss, const Tensor& divisor, const Tensor& counted,
                             const Tensor& mask_logits, const Tensor& offset, const Tensor& weight, const Tensor& pairs,
                             const Tensor& boxes, const Tensor& video_index, int64_t radius, int64_t dilation,
                             std::optional<Tensor> shift) {
  const Check check("tk_loss_mean_backward");
  const Arguments arguments =
      checked(check, mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift);
  const int64_t columns = pairs.size(0);
  return gradient(check, arguments,
                  mean_of_terms_backward(check, grad_loss, divisor, {mask_logits.size(0), columns}, columns), counted);
}

MFVIS_OPERATOR(tk_loss_sums,
               "(Tensor mask_logits, Tensor offset, Tensor weight, Tensor pairs, Tensor boxes, Tensor video_index, "
               "int radius, int dilation, Tensor? shift) -> (Tensor, Tensor, Tensor)")
MFVIS_OPERATOR(tk_loss_sums_backward,
               "(Tensor grad_loss_sum, Tensor counted, Tensor mask_logits, Tensor offset, Tensor weight, Tensor pairs, "
               "Tensor boxes, Tensor video_index, int radius, int dilation, Tensor? shift) -> Tensor")
MFVIS_OPERATOR(tk_loss_mean,
               "(Tensor mask_logits, Tensor offset, Tensor weight, Tensor pairs, Tensor boxes, Tensor video_index, "
               "int radius, int dilation, Tensor? shift) -> (Tensor, Tensor, Tensor)")
MFVIS_OPERATOR(tk_loss_mean_backward,
               "(Tensor grad_loss, Tensor divisor, Tensor counted, Tensor mask_logits, Tensor offset, Tensor weight, "
               "Tensor pairs, Tensor boxes, Tensor video_index, int radius, int dilation, Tensor? shift) -> Tensor")

}  // namespace mfvis
