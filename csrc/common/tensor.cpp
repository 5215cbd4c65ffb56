#include "tensor.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "memory.h"

// Available from torch 2.11 on: not in the headers of the target version, null in an older torch.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t axes, const int64_t* sizes, const int64_t* strides, int64_t offset, int32_t dtype,
    int32_t device_type, int32_t device_index, AtenTensorHandle* made, int32_t layout, const uint8_t* metadata,
    int64_t metadata_size, void (*give_back)(void* data, void* context), void* context);

namespace mfvis {

ScalarType compute_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

Tensor as_private(const Tensor& tensor) {
  const Tensor tight = as_contiguous(tensor);
  if (!tight.is_cpu()) return tight;
  Tensor copy = make_empty(tight, tight.sizes());
  int32_t type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tight.get(), &type));
  const size_t bytes = static_cast<size_t>(tight.numel()) * aoti_torch_dtype_element_size(type);
  if (bytes > 0) std::memcpy(copy.mutable_data_ptr(), tight.const_data_ptr(), bytes);
  return copy;
}

std::optional<Tensor> as_private(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(as_private(*tensor)) : std::nullopt;
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
  const int64_t bytes = count * static_cast<int64_t>(aoti_torch_dtype_element_size(type));
  AtenTensorHandle made = nullptr;
  if (!like.is_cpu() || bytes < huge_page || torch_from_blob == nullptr) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(axes, sizes.data(), strides.data(), type, device, index, &made));
    return Tensor(made);
  }
  auto memory = std::make_unique<CachedBuffer>(bytes);
  const auto give_back = [](void*, void* of_tensor) { delete static_cast<CachedBuffer*>(of_tensor); };
  TORCH_ERROR_CODE_CHECK(torch_from_blob(memory->from<void>(0), axes, sizes.data(), strides.data(), 0, type, device,
                                         index, &made, aoti_torch_layout_strided(), nullptr, 0, give_back,
                                         memory.get()));
  memory.release();
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
