#include "box_projection_loss.h"

#include <algorithm>
#include <cstdint>

#include "../common/operator.h"

namespace mfvis {
namespace {

int64_t bytes_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

// A row's maximum lies in a column, a column's maximum in a row. Values are checked on the CPU only: on other devices
// that would wait for the device, and the kernel skips positions outside of the frame.
void check_positions(const Check& check, const Tensor& position, int64_t height, int64_t width) {
  if (!position.is_cpu()) return;
  const int64_t frames = position.numel() / std::max<int64_t>(height + width, 1);
  const int32_t* at = position.const_data_ptr<int32_t>();
  const auto check_axis = [&](int64_t size, int64_t bound) {
    int outside = 0;
    for (int64_t i = 0; i < size; ++i) outside |= static_cast<uint32_t>(at[i]) >= static_cast<uint32_t>(bound);
    for (int64_t i = 0; outside && i < size; ++i) {
      check.that(at[i] >= 0 && at[i] < bound, "position", "contains " + std::to_string(at[i]),
                 "the columns of the rows' maxima, 0 to " + std::to_string(width - 1) +
                     ", then the rows of the columns' maxima, 0 to " + std::to_string(height - 1));
    }
    at += size;
  };
  for (int64_t frame = 0; frame < frames; ++frame) {
    check_axis(height, width);
    check_axis(width, height);
  }
}

BoxProjection arguments(const Tensor& like, const float* boxes, bool add = false) {
  return {like.const_data_ptr(), dtype_of(like), boxes, like.size(0), like.size(1), like.size(2), like.size(3), add};
}

void check_backward(const Check& check, const char* name, const Tensor& like, const Tensor& grad_loss,
                    const Tensor& slope, const Tensor& position) {
  check.dim(name, like, 4, "[N, T, H, W]");
  check.floating(name, like);
  const int64_t instances = like.size(0), frames = like.size(1), both_axes = like.size(2) + like.size(3);
  const ScalarType type = compute_type(like);
  check.sizes("slope", slope, {instances, frames, both_axes}, "[N, T, H + W]");
  check.dtype("slope", slope, {type});
  check.sizes("position", position, {instances, frames, both_axes}, "[N, T, H + W]");
  check.dtype("position", position, {ScalarType::Int});
  check.sizes("grad_loss", grad_loss, {}, "a scalar");
  check.dtype("grad_loss", grad_loss, {type});
  for (const Tensor& other : {slope, position, grad_loss}) check.same_device("an argument", other, name, like);
}

// Writes the gradient of the logits, or adds to it.
void gradient(const Check& check, const Tensor& grad_loss, const Tensor& slope, const Tensor& position, bool add,
              Tensor& grad_logits) {
  if (grad_logits.numel() == 0) return;
  const Tensor tight_slope = as_contiguous(slope), tight_position = as_contiguous(position);
  check_positions(check, tight_position, grad_logits.size(2), grad_logits.size(3));
  box_projection_terms_backward_kernel.on(grad_logits)(
      arguments(grad_logits, nullptr, add),
      {const_cast<void*>(tight_slope.const_data_ptr()), const_cast<int32_t*>(tight_position.const_data_ptr<int32_t>())},
      grad_loss.const_data_ptr(), grad_logits.mutable_data_ptr());
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> box_projection_terms(const Tensor& mask_logits, const Tensor& boxes) {
  const Check check("box_projection_loss");
  check.dim("mask_logits", mask_logits, 4, "[N, T, H, W]");
  check.floating("mask_logits", mask_logits);
  const int64_t instances = mask_logits.size(0), frames = mask_logits.size(1);
  const int64_t height = mask_logits.size(2), width = mask_logits.size(3), longest = std::max(height, width);
  check.that(longest <= INT32_MAX, "mask_logits", "has an axis of " + std::to_string(longest), "H and W below 2^31");
  check.sizes("boxes", boxes, {instances, frames, 4}, "[N, T, 4]");
  check.dtype("boxes", boxes, {ScalarType::Float});
  check.same_device("boxes", boxes, "mask_logits", mask_logits);

  const ScalarType type = compute_type(mask_logits);
  const std::initializer_list<int64_t> maxima{instances, frames, height + width};
  if (mask_logits.numel() == 0) {
    return {make_zeros(mask_logits, {}, type), make_zeros(mask_logits, maxima, type),
            make_zeros(mask_logits, maxima, ScalarType::Int)};
  }
  const auto new_maxima = [&](ScalarType element) {
    return runs_cuda_kernels(mask_logits) ? make_zeros(mask_logits, maxima, element)
                                          : make_empty(mask_logits, maxima, element);
  };
  Tensor loss = make_empty(mask_logits, {}, type);
  Tensor slope = new_maxima(type), position = new_maxima(ScalarType::Int);
  const Tensor logits = as_contiguous(mask_logits), tight_boxes = as_contiguous(boxes);
  const Tensor per_frame = make_empty(logits, {instances, frames}, ScalarType::Double);
  BoxPeaks peaks{};
  std::optional<Tensor> peak_value, peak_position, finished;
  if (runs_cuda_kernels(logits)) {
    const int64_t columns = bytes_of_tile / bytes_of(dtype_of(logits));
    peaks.bands = ceil_div(height, rows_of_band);
    peaks.tiles = ceil_div(width, columns);
    const int64_t count = instances * frames * (peaks.bands * width + height * peaks.tiles);
    peak_value = make_empty(logits, {count}, type);
    peak_position = make_empty(logits, {count}, ScalarType::Int);
    finished = make_zeros(logits, {1}, ScalarType::Int);
    peaks.value = peak_value->mutable_data_ptr();
    peaks.position = peak_position->mutable_data_ptr<int32_t>();
    peaks.finished = finished->mutable_data_ptr<int32_t>();
  }
  box_projection_terms_kernel.on(logits)(arguments(logits, tight_boxes.const_data_ptr<float>()),
                                         {slope.mutable_data_ptr(), position.mutable_data_ptr<int32_t>()}, peaks,
                                         loss.mutable_data_ptr(), per_frame.mutable_data_ptr<double>());
  return {loss, slope, position};
}

// mask_logits provides shape, dtype and device. Its elements are not read.
Tensor box_projection_terms_backward(const Tensor& grad_loss, const Tensor& mask_logits, const Tensor& slope,
                                     const Tensor& position) {
  const Check check("box_projection_terms_backward");
  check_backward(check, "mask_logits", mask_logits, grad_loss, slope, position);
  // Always contiguous. On the CPU the threads that write the gradient also initialize it.
  Tensor grad_logits = runs_cuda_kernels(mask_logits) ? make_zeros(mask_logits, mask_logits.sizes())
                                                      : make_empty(mask_logits, mask_logits.sizes());
  gradient(check, grad_loss, slope, position, false, grad_logits);
  return grad_logits;
}

void box_projection_terms_add_gradient(Tensor grad_logits, const Tensor& grad_loss, const Tensor& slope,
                                       const Tensor& position) {
  const Check check("box_projection_terms_add_gradient");
  check_backward(check, "grad_logits", grad_logits, grad_loss, slope, position);
  check.contiguous("grad_logits", grad_logits);
  gradient(check, grad_loss, slope, position, true, grad_logits);
}

MFVIS_OPERATOR(box_projection_terms, "(Tensor mask_logits, Tensor boxes) -> (Tensor, Tensor, Tensor)")
MFVIS_OPERATOR(box_projection_terms_backward,
               "(Tensor grad_loss, Tensor mask_logits, Tensor slope, Tensor position) -> Tensor")
MFVIS_OPERATOR(box_projection_terms_add_gradient,
               "(Tensor(a!) grad_logits, Tensor grad_loss, Tensor slope, Tensor position) -> ()")

}  // namespace mfvis
