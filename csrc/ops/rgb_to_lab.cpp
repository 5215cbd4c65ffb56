#include "rgb_to_lab.h"

#include <string>
#include <vector>

#include "../common/operator.h"

namespace mfvis {

Tensor rgb_to_lab(const Tensor& images, int64_t downsample) {
  const Check check("rgb_to_lab");
  const int64_t dim = images.dim();
  check.that(dim >= 3 && images.size(dim - 3) == 3, "images", "has shape " + shape_of(images), "[..., 3, H, W]");
  check.dtype("images", images,
              {ScalarType::Byte, ScalarType::Float, ScalarType::Half, ScalarType::BFloat16, ScalarType::Double});
  check.that(downsample >= 1, "downsample", "is " + std::to_string(downsample), "at least 1");

  std::vector<int64_t> sizes(images.sizes().begin(), images.sizes().end());
  const int64_t height = sizes[dim - 2], width = sizes[dim - 1];
  sizes[dim - 2] = height / downsample;
  sizes[dim - 1] = width / downsample;
  Tensor lab = make_empty(images, sizes, ScalarType::Float);
  if (lab.numel() == 0) return lab;
  const Tensor rgb = as_contiguous(images);
  rgb_to_lab_kernel.on(rgb)({rgb.const_data_ptr(), dtype_of(rgb), rgb.numel() / (3 * height * width), height, width,
                             downsample, lab.mutable_data_ptr<float>()});
  return lab;
}

MFVIS_OPERATOR(rgb_to_lab, "(Tensor images, int downsample=1) -> Tensor")

}  // namespace mfvis
