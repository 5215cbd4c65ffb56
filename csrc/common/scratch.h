#pragma once

#include <cstdint>

#include "dtype.h"

namespace mfvis {
namespace {

// The working memory of one thread, initialized to zero. Not a std container, which kernels must not instantiate
// (kernel.h).
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : data_(new T[static_cast<uint64_t>(size < 1 ? 1 : size)]()) {}
  ~Scratch() { delete[] data_; }
  // Without initialization, for memory of which a part may never be used: untouched pages cost nothing.
  static Scratch unset(int64_t size) { return Scratch(new T[static_cast<uint64_t>(size < 1 ? 1 : size)]); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  explicit Scratch(T* data) : data_(data) {}

  T* data_;
};

// A row's size rounded up to whole vectors: loops over padded rows have no remainder, in which every element would cost
// as much as a vector.
constexpr int64_t lanes = 16;
MFVIS_HOST_DEVICE int64_t round_up_to_lanes(int64_t size) { return (size + lanes - 1) & ~(lanes - 1); }

}  // namespace
}  // namespace mfvis
