// Tensor functions of the bridges. Their counterparts in libtorch's stable ABI look the operator up by name and box its
// arguments at every call, some 70 µs per call of tk_loss when the caches are cold.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace mfvis {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The dtype in which the kernels compute, that of Compute<T> in dtype.h: float64 for float64, else float32.
ScalarType compute_type(const Tensor& tensor);

// The tensor itself if it is contiguous.
Tensor as_contiguous(const Tensor& tensor);

// Contiguous, and on the CPU a copy. Boxes and indices may share memory with a NumPy array that another thread refills
// at any time; what is checked and what the kernels read must be the same. For small tensors.
Tensor as_private(const Tensor& tensor);
std::optional<Tensor> as_private(const std::optional<Tensor>& tensor);

// A contiguous tensor on the device of `like`, with its dtype by default. On the CPU a large one uses cached memory
// (memory.h), from torch 2.11 on, and cannot be resized in place.
Tensor make_empty(const Tensor& like, IntHeaderOnlyArrayRef sizes, std::optional<ScalarType> dtype = std::nullopt);
Tensor make_zeros(const Tensor& like, IntHeaderOnlyArrayRef sizes, std::optional<ScalarType> dtype = std::nullopt);

}  // namespace mfvis
