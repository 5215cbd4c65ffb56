// Tensors of the bridges. libtorch's stable functions of these kinds look the operator up by its name and box its
// arguments at every call, which adds up: some 70 µs to a call of tk_loss when the caches are cold.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace mfvis {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The tensor itself where it is contiguous.
Tensor as_contiguous(const Tensor& tensor);

// Contiguous, and on the CPU a copy. Boxes and indices may share memory with a NumPy array that another thread refills
// at any time; what is checked and what the kernels read must be the same. For small tensors.
Tensor as_private(const Tensor& tensor);
std::optional<Tensor> as_private(const std::optional<Tensor>& tensor);

// Contiguous, on the device of `like`, of its dtype unless there is another. On the CPU a large one lies in memory that
// is kept (memory.h), from torch 2.11 on; it cannot be resized in place.
Tensor make_empty(const Tensor& like, IntHeaderOnlyArrayRef sizes, std::optional<ScalarType> dtype = std::nullopt);
Tensor make_zeros(const Tensor& like, IntHeaderOnlyArrayRef sizes, std::optional<ScalarType> dtype = std::nullopt);

}  // namespace mfvis
