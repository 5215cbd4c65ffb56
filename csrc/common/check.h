// Checks of an operator's arguments. Every message names the operator and the argument, the actual value and the
// expected one. In Python it is a ValueError.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <string>

#include "dtype.h"

namespace mfvis {

using torch::stable::Tensor;

class Check {
 public:
  explicit Check(const char* op) : op_(op) {}

  // expected: the names of the axes, "[N, T, H, W]".
  void dim(const char* name, const Tensor& tensor, int64_t dim, const char* expected) const;
  // -1 stands for any size.
  void sizes(const char* name, const Tensor& tensor, std::initializer_list<int64_t> sizes, const char* expected) const;
  void dtype(const char* name, const Tensor& tensor, std::initializer_list<torch::headeronly::ScalarType> types) const;
  // float16, bfloat16, float32 or float64.
  void floating(const char* name, const Tensor& tensor) const;
  void same_device(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) const;
  void contiguous(const char* name, const Tensor& tensor) const;
  // `got` and `expected` are parts of the message.
  void that(bool holds, const char* name, const std::string& got, const std::string& expected) const;

 private:
  [[noreturn]] void fail(const char* name, const std::string& got, const std::string& expected) const;

  const char* op_;
};

// "[2, 3, 4]", for error messages.
std::string shape_of(const Tensor& tensor);

// The dtype as the kernels know it. Only valid for a checked tensor.
Dtype dtype_of(const Tensor& tensor);

}  // namespace mfvis
