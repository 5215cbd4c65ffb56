#include "tensor.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "memory.h"

namespace mfvis {

Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

std::optional<Tensor> as_contiguous(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(as_contiguous(*tensor)) : std::nullopt;
}

Tensor make_empty(const Tensor& like, IntHeaderOnlyArrayRef sizes, std::optional<ScalarType> dtype) {
  const auto axes = static_cast<int64_t>(sizes.size());
  std::vector<int64_t> strides(sizes.size());
  int64_t count = 1, stride = 1;
  for (size_t axis = sizes.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(sizes[axis], 1);
    count *= sizes[axis];
  }
  int32_t type = 0, device = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &type));
  if (dtype) type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  const auto allocated = [&](int64_t of_axes, const int64_t* with_sizes, const int64_t* with_strides) {
    AtenTensorHandle made = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(of_axes, with_sizes, with_strides, type, device, index, &made));
    return Tensor(made);
  };
  const auto element = static_cast<int64_t>(aoti_torch_dtype_element_size(type));
  const int64_t on_huge_pages = huge_pages(count * element);
  if (on_huge_pages == 0 || !like.is_cpu()) return allocated(axes, sizes.data(), strides.data());
  // As much more as it takes to begin with a huge page and to end with one.
  constexpr int64_t one = 1;
  const int64_t enough = (huge_page + std::max(count * element, on_huge_pages)) / element;
  const Tensor around = allocated(1, &enough, &one);
  void* const begin = around.mutable_data_ptr();
  const int64_t skipped = to_huge_page(begin);
  use_huge_pages(begin, skipped + on_huge_pages);
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(around.get(), axes, sizes.data(), strides.data(), skipped / element, &made));
  return Tensor(made);
}

Tensor make_zeros(const Tensor& like, IntHeaderOnlyArrayRef sizes, std::optional<ScalarType> dtype) {
  if (!like.is_cpu()) return torch::stable::new_zeros(like, sizes, dtype);
  Tensor zeros = make_empty(like, sizes, dtype);
  int32_t type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(zeros.get(), &type));
  std::memset(zeros.mutable_data_ptr(), 0, static_cast<size_t>(zeros.numel()) * aoti_torch_dtype_element_size(type));
  return zeros;
}

}  // namespace mfvis
