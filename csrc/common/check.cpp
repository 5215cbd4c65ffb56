#include "check.h"

#include <sstream>
#include <stdexcept>

#include "kernel.h"

namespace mfvis {
namespace {

using torch::headeronly::ScalarType;

template <typename Sizes>
std::string text_of(const Sizes& sizes) {
  std::ostringstream text;
  text << "[";
  bool first = true;
  for (const int64_t size : sizes) {
    if (!first) text << ", ";
    first = false;
    if (size < 0) {
      text << "any";
    } else {
      text << size;
    }
  }
  text << "]";
  return text.str();
}

const char* text_of(ScalarType type) {
  switch (type) {
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    default:
      return torch::headeronly::toString(type);
  }
}

std::string device_of(const Tensor& tensor) {
  if (tensor.is_cpu()) return "the CPU";
  const std::string index = std::to_string(tensor.get_device_index());
  return tensor.is_cuda() ? "CUDA device " + index : "device " + index + " of another kind";
}

}  // namespace

void Check::fail(const char* name, const std::string& got, const std::string& expected) const {
  throw std::invalid_argument(std::string("mfvis::") + op_ + ": " + name + " " + got + "; expected " + expected);
}

void Check::that(bool holds, const char* name, const std::string& got, const std::string& expected) const {
  if (!holds) fail(name, got, expected);
}

void Check::dim(const char* name, const Tensor& tensor, int64_t dim, const char* expected) const {
  if (tensor.dim() != dim) fail(name, "has shape " + shape_of(tensor), expected);
}

void Check::sizes(const char* name, const Tensor& tensor, std::initializer_list<int64_t> sizes,
                  const char* expected) const {
  bool equal = tensor.dim() == static_cast<int64_t>(sizes.size());
  int64_t axis = 0;
  for (const int64_t size : sizes) {
    equal = equal && (size < 0 || tensor.size(axis) == size);
    ++axis;
  }
  if (!equal) fail(name, "has shape " + shape_of(tensor), std::string(expected) + " = " + text_of(sizes));
}

void Check::dtype(const char* name, const Tensor& tensor, std::initializer_list<ScalarType> types) const {
  std::string expected;
  for (const ScalarType type : types) {
    if (tensor.scalar_type() == type) return;
    expected += (expected.empty() ? "" : " or ") + std::string(text_of(type));
  }
  fail(name, std::string("is ") + text_of(tensor.scalar_type()), expected);
}

void Check::floating(const char* name, const Tensor& tensor) const {
  dtype(name, tensor, {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16, ScalarType::Double});
}

void Check::same_device(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) const {
  if (tensor.is_cpu() == other.is_cpu() && tensor.get_device_index() == other.get_device_index()) return;
  fail(name, "is on " + device_of(tensor), "the device of " + std::string(other_name) + ", " + device_of(other));
}

void Check::contiguous(const char* name, const Tensor& tensor) const {
  that(tensor.is_contiguous(), name, "has the strides of a view", "a contiguous tensor");
}

std::string shape_of(const Tensor& tensor) { return text_of(tensor.sizes()); }

Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return Dtype::f16;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    case ScalarType::Double:
      return Dtype::f64;
    case ScalarType::Byte:
      return Dtype::u8;
    default:
      return Dtype::f32;
  }
}

void fail_without_cuda_kernel(const char* op) {
  throw std::runtime_error(std::string("mfvis::") + op +
                           " has no CUDA kernel in this build; move its tensors to the CPU, or install a build with "
                           "CUDA: `MFVIS_CUDA=1 pip install --force-reinstall --no-deps --no-cache-dir --no-binary "
                           "mfvis-ext mfvis-ext`, in a checkout `MFVIS_CUDA=1 pip install .` "
                           "(mfvis_ext.build_info() shows what was built)");
}

}  // namespace mfvis
