// Page faults dominate the cost of large allocations: the first touch of a fresh 4 KB page takes up to 2 µs in a
// virtual machine, thirty times as long as filling it, and the C library returns large blocks to the system after every
// call.
#pragma once

#include <cstdint>

namespace mfvis {

constexpr int64_t huge_page = 2 << 20;

// Requests huge pages for `data`, which is about to be written completely: one page fault per 2 MB. Only a hint.
void use_huge_pages(void* data, int64_t bytes);

// Uninitialized memory that the process keeps when the buffer is destroyed, at most 64 MB in four blocks, so that the
// next call finds its pages mapped. Nothing is kept with MFVIS_KEEP_MEMORY=0 in the environment.
class CachedBuffer {
 public:
  // `dense` memory will be written completely and gets huge pages. The pages of `sparse` memory that are never touched
  // cost nothing.
  enum class Use { dense, sparse };

  explicit CachedBuffer(int64_t bytes, Use use = Use::dense);
  ~CachedBuffer();
  CachedBuffer(const CachedBuffer&) = delete;
  CachedBuffer& operator=(const CachedBuffer&) = delete;

  // The memory from byte `offset` on.
  template <typename T>
  T* from(int64_t offset) const {
    return reinterpret_cast<T*>(data_ + offset);
  }

 private:
  struct Block* block_;
  char* data_;
};

}  // namespace mfvis
