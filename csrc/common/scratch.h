#pragma once

#include <cstdint>

#include "dtype.h"

namespace mfvis {
namespace {

// Working memory of one thread, zeros at first. Not a std container: kernels may not instantiate those (kernel.h).
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : data_(new T[static_cast<uint64_t>(size < 1 ? 1 : size)]()) {}
  ~Scratch() { delete[] data_; }
  // The same without the zeros, for what may stay untouched: memory that nobody writes costs nothing.
  static Scratch unset(int64_t size) { return Scratch(new T[static_cast<uint64_t>(size < 1 ? 1 : size)]); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  explicit Scratch(T* data) : data_(data) {}

  T* data_;
};

// A row's size rounded up to whole vectors: loops over padded rows have no remainder, whose elements cost a vector
// each.
constexpr int64_t lanes = 16;
MFVIS_HOST_DEVICE int64_t whole_vectors(int64_t size) { return (size + lanes - 1) & ~(lanes - 1); }

}  // namespace
}  // namespace mfvis
