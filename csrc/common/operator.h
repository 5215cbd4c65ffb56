// Included by every bridge (csrc/ops/<op>.cpp): libtorch's stable ABI, the checks, and the registration.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "check.h"
#include "kernel.h"
#include "tensor.h"

namespace mfvis {

using torch::headeronly::ScalarType;

// Defines torch.ops.mfvis.<name> with one C++ function for all devices. It checks the arguments; Kernel::on then
// selects the device's kernel or raises an error if there is none.
#define MFVIS_OPERATOR(name, signature)                                         \
  STABLE_TORCH_LIBRARY_FRAGMENT(mfvis, m) { m.def(#name signature); }           \
  STABLE_TORCH_LIBRARY_IMPL(mfvis, CPU, m) { m.impl(#name, TORCH_BOX(&name)); } \
  STABLE_TORCH_LIBRARY_IMPL(mfvis, CUDA, m) { m.impl(#name, TORCH_BOX(&name)); }

}  // namespace mfvis
