#include "ms_deform_attn.h"

#include "../common/operator.h"

namespace mfvis {
namespace {

// The checked tensors of one call, contiguous and of the types that the kernels read. They outlive the kernel.
struct Arguments {
  Tensor value, shapes, starts, locations, weights;
  bool softmax;

  MsDeformAttn pointers() const {
    MsDeformAttn args{value.const_data_ptr(),
                      dtype_of(value),
                      locations.const_data_ptr(),
                      weights.const_data_ptr(),
                      value.size(0),
                      value.size(1),
                      value.size(2),
                      value.size(3),
                      locations.size(1),
                      locations.size(3),
                      locations.size(4),
                      softmax,
                      {},
                      nullptr,
                      nullptr};
    const int64_t *const shape = shapes.const_data_ptr<int64_t>(), *const start = starts.const_data_ptr<int64_t>();
    // On the emulator the kernels read the same memory as on a GPU.
    if (!shapes.is_cpu() || (value.is_cpu() && runs_cuda_kernels(value))) {
      args.shapes_on_device = shape;
      args.starts_on_device = start;
    } else {
      for (int64_t l = 0; l < args.levels; ++l) args.level[l] = {shape[2 * l], shape[2 * l + 1], start[l]};
    }
    return args;
  }
};

// Values are checked on the CPU only: on other devices that would wait for the device. There the kernels read nothing
// outside of `value`, whatever the levels are.
void check_levels(const Check& check, const Tensor& shapes, const Tensor& starts, int64_t pixels) {
  if (!shapes.is_cpu()) return;
  const int64_t *const shape = shapes.const_data_ptr<int64_t>(), *const start = starts.const_data_ptr<int64_t>();
  for (int64_t l = 0; l < starts.size(0); ++l) {
    const int64_t height = shape[2 * l], width = shape[2 * l + 1], left = pixels - start[l];
    const bool fits = start[l] >= 0 && left >= 0 && height >= 0 && width >= 0 && (width == 0 || height <= left / width);
    check.that(fits, "spatial_shapes",
               "says that level " + std::to_string(l) + " is " + std::to_string(height) + " x " +
                   std::to_string(width) + " from row " + std::to_string(start[l]) + " on",
               "levels within the " + std::to_string(pixels) + " rows (axis 1) of value");
  }
}

Arguments checked(const Check& check, const Tensor& value, const Tensor& spatial_shapes,
                  const Tensor& level_start_index, const Tensor& sampling_locations, const Tensor& attention_weights,
                  bool softmax) {
  check.dim("value", value, 4, "[B, S, heads, D]");
  check.floating("value", value);
  check.that(value.size(1) <= INT32_MAX, "value", "has " + std::to_string(value.size(1)) + " rows", "S below 2^31");
  check.sizes("spatial_shapes", spatial_shapes, {-1, 2}, "[L, 2]");
  check.dtype("spatial_shapes", spatial_shapes, {ScalarType::Long});
  const int64_t levels = spatial_shapes.size(0);
  check.that(levels <= max_deform_levels, "spatial_shapes", "has " + std::to_string(levels) + " levels",
             "at most " + std::to_string(max_deform_levels));
  check.sizes("level_start_index", level_start_index, {levels}, "[L]");
  check.dtype("level_start_index", level_start_index, {ScalarType::Long});
  if (!spatial_shapes.is_cpu()) check.same_device("spatial_shapes", spatial_shapes, "value", value);
  check.same_device("level_start_index", level_start_index, "spatial_shapes", spatial_shapes);
  check.sizes("sampling_locations", sampling_locations, {value.size(0), -1, value.size(2), levels, -1, 2},
              "[B, Q, heads, L, points, 2]");
  check.floating("sampling_locations", sampling_locations);
  check.same_device("sampling_locations", sampling_locations, "value", value);
  check.sizes("attention_weights", attention_weights,
              {value.size(0), sampling_locations.size(1), value.size(2), levels, sampling_locations.size(4)},
              "[B, Q, heads, L, points]");
  check.floating("attention_weights", attention_weights);
  check.same_device("attention_weights", attention_weights, "value", value);

  const auto tight = [&](const Tensor& tensor) {
    return as_contiguous(torch::stable::to(tensor, compute_type(value)));
  };
  Arguments arguments{as_contiguous(value),      as_private(spatial_shapes), as_private(level_start_index),
                      tight(sampling_locations), tight(attention_weights),   softmax};
  check_levels(check, arguments.shapes, arguments.starts, value.size(1));
  return arguments;
}

}  // namespace

Tensor ms_deform_attn(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                      const Tensor& sampling_locations, const Tensor& attention_weights, bool softmax) {
  const Arguments arguments = checked(Check("ms_deform_attn"), value, spatial_shapes, level_start_index,
                                      sampling_locations, attention_weights, softmax);
  const std::initializer_list<int64_t> shape{value.size(0), sampling_locations.size(1), value.size(2) * value.size(3)};
  if (value.numel() == 0 || attention_weights.numel() == 0) return make_zeros(value, shape);
  Tensor output = make_empty(value, shape);
  ms_deform_attn_kernel.on(value)(arguments.pointers(), output.mutable_data_ptr());
  return output;
}

// deterministic: whether the gradient of the value must be repeatable. On the CPU it always is.
std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_output, const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
    const Tensor& sampling_locations, const Tensor& attention_weights, bool softmax, bool deterministic) {
  const Check check("ms_deform_attn_backward");
  const Arguments arguments =
      checked(check, value, spatial_shapes, level_start_index, sampling_locations, attention_weights, softmax);
  check.sizes("grad_output", grad_output, {value.size(0), sampling_locations.size(1), value.size(2) * value.size(3)},
              "[B, Q, heads * D]");
  check.dtype("grad_output", grad_output, {value.scalar_type()});
  check.same_device("grad_output", grad_output, "value", value);
  if (value.numel() == 0 || attention_weights.numel() == 0) {
    return {make_zeros(value, value.sizes()), make_zeros(sampling_locations, sampling_locations.sizes()),
            make_zeros(attention_weights, attention_weights.sizes())};
  }

  const ScalarType type = compute_type(value);
  Tensor grad_locations = make_empty(arguments.locations, arguments.locations.sizes());
  Tensor grad_weights = make_empty(arguments.weights, arguments.weights.sizes());
  DeformSums sums{};
  std::optional<Tensor> in_fixed, largest, in_float;
  if (runs_cuda_kernels(value) && deterministic) {
    in_fixed = make_zeros(value, value.sizes(), ScalarType::Long);
    largest = make_zeros(value, {2, value.size(0)}, ScalarType::Long);
    sums.in_fixed = in_fixed->mutable_data_ptr<int64_t>();
    sums.largest = reinterpret_cast<uint64_t*>(largest->mutable_data_ptr<int64_t>());
  } else if (runs_cuda_kernels(value)) {
    in_float = make_zeros(value, value.sizes(), type);
    sums.sums = in_float->mutable_data_ptr();
  }
  const bool in_place = in_float && value.scalar_type() == type;
  Tensor grad_value = in_place ? *in_float : make_empty(value, value.sizes());
  const Tensor tight_grad = as_contiguous(grad_output);
  ms_deform_attn_backward_kernel.on(value)(arguments.pointers(), sums, tight_grad.const_data_ptr(),
                                           grad_value.mutable_data_ptr(), grad_locations.mutable_data_ptr(),
                                           grad_weights.mutable_data_ptr());
  return {grad_value, torch::stable::to(grad_locations, sampling_locations.scalar_type()),
          torch::stable::to(grad_weights, attention_weights.scalar_type())};
}

MFVIS_OPERATOR(ms_deform_attn,
               "(Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor sampling_locations, "
               "Tensor attention_weights, bool softmax=False) -> Tensor")
MFVIS_OPERATOR(ms_deform_attn_backward,
               "(Tensor grad_output, Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
               "Tensor sampling_locations, Tensor attention_weights, bool softmax, bool deterministic) "
               "-> (Tensor, Tensor, Tensor)")

}  // namespace mfvis
