#include "patch_distance.h"

#include <optional>

#include "../common/operator.h"

namespace mfvis {
namespace {

// The checked, contiguous tensors of one call. They outlive the kernel.
struct Arguments {
  Tensor target, source;
  std::optional<Tensor> padded;
  int64_t patch_size, radius, dilation;

  PatchDistance pointers() const {
    return {target.const_data_ptr(),
            source.const_data_ptr(),
            dtype_of(target),
            target.size(0),
            target.size(1),
            target.size(2),
            target.size(3),
            patch_size,
            radius,
            dilation,
            padded ? padded->mutable_data_ptr() : nullptr};
  }
};

Arguments checked(const Check& check, const Tensor& target, const Tensor& source, int64_t patch_size, int64_t radius,
                  int64_t dilation) {
  check.dim("target", target, 4, "[B, C, H, W]");
  check.floating("target", target);
  check.that(target.size(1) > 0, "target", "has shape " + shape_of(target), "a channel or more");
  check.sizes("source", source, {target.size(0), target.size(1), target.size(2), target.size(3)}, "[B, C, H, W]");
  check.dtype("source", source, {target.scalar_type()});
  check.same_device("source", source, "target", target);
  check.that(patch_size > 0 && patch_size % 2 == 1 && patch_size < 256, "patch_size",
             "is " + std::to_string(patch_size), "an odd number, 1 to 255");
  check.that(radius >= 0 && radius <= 90, "radius", "is " + std::to_string(radius), "0 to 90");
  check.that(dilation >= 1 && dilation <= 16384, "dilation", "is " + std::to_string(dilation), "1 to 16384");
  std::optional<Tensor> padded;
  if (!runs_cuda_kernels(target)) {
    const int64_t border = patch_size - 1;
    padded = make_empty(target, {2, target.size(0), target.size(1), target.size(2) + border, target.size(3) + border},
                        compute_type(target));
  }
  return {as_contiguous(target), as_contiguous(source), padded, patch_size, radius, dilation};
}

}  // namespace

Tensor patch_distance(const Tensor& target, const Tensor& source, int64_t patch_size, int64_t radius,
                      int64_t dilation) {
  const Arguments arguments = checked(Check("patch_distance"), target, source, patch_size, radius, dilation);
  const int64_t side = 2 * radius + 1;
  Tensor distance =
      make_empty(target, {target.size(0), side * side, target.size(2), target.size(3)}, compute_type(target));
  if (distance.numel() > 0) {
    patch_distance_kernel.on(target)(arguments.pointers(), distance.mutable_data_ptr());
  }
  return distance;
}

Tensor patch_distance_backward(const Tensor& grad_distance, const Tensor& distance, const Tensor& target,
                               const Tensor& source, int64_t patch_size, int64_t radius, int64_t dilation,
                               bool of_source) {
  const Check check("patch_distance_backward");
  const Arguments arguments = checked(check, target, source, patch_size, radius, dilation);
  const int64_t candidates = (2 * radius + 1) * (2 * radius + 1);
  for (const auto& [name, tensor] : {std::pair("grad_distance", &grad_distance), std::pair("distance", &distance)}) {
    check.sizes(name, *tensor, {target.size(0), candidates, target.size(2), target.size(3)}, "[B, S², H, W]");
    check.dtype(name, *tensor, {compute_type(target)});
    check.same_device(name, *tensor, "target", target);
  }
  Tensor grad = make_empty(target, target.sizes());
  if (grad.numel() == 0) return grad;
  const Tensor tight_grad = as_contiguous(grad_distance);
  const Tensor tight_distance = as_contiguous(distance);
  patch_distance_backward_kernel.on(target)(arguments.pointers(), tight_grad.const_data_ptr(),
                                            tight_distance.const_data_ptr(), of_source, grad.mutable_data_ptr());
  return grad;
}

MFVIS_OPERATOR(patch_distance,
               "(Tensor target, Tensor source, int patch_size=3, int radius=5, int dilation=1) -> Tensor")
MFVIS_OPERATOR(patch_distance_backward,
               "(Tensor grad_distance, Tensor distance, Tensor target, Tensor source, int patch_size, int radius, "
               "int dilation, bool of_source) -> Tensor")

}  // namespace mfvis
