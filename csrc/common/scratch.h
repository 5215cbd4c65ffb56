#pragma once

#include <cstdint>

namespace mfvis {
namespace {

// Uninitialised working memory of one thread. Not a std container: kernels may not instantiate those (kernel.h).
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : data_(new T[static_cast<uint64_t>(size < 1 ? 1 : size)]) {}
  ~Scratch() { delete[] data_; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

}  // namespace
}  // namespace mfvis
