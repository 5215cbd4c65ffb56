// Where memory comes from decides what a call costs: the first touch of a fresh page of 4 KB takes up to 2 µs in a
// virtual machine, thirty times what filling it takes, and the C library gets large blocks fresh for every call.
#pragma once

#include <cstdint>

namespace mfvis {

constexpr int64_t huge_page = 2 << 20;

// Of so many bytes, how many are worth huge pages: whole ones, the last of them filled by a quarter or more.
int64_t huge_pages(int64_t bytes);
// Bytes from `data` to where a huge page begins.
int64_t to_huge_page(const void* data);
// Asks for huge pages below `data`, which is about to be written whole: one first touch per 2 MB. A hint and no more.
void use_huge_pages(void* data, int64_t bytes);

// Working memory that stays with the process when it is given back, one block of at most 32 MB, so that the next call
// finds its pages there; none at all with MFVIS_KEEP_MEMORY=0 in the environment. The contents are not set.
class KeptMemory {
 public:
  explicit KeptMemory(int64_t bytes);
  ~KeptMemory();
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;

  // What lies from byte `at` on.
  template <typename T>
  T* from(int64_t at) const {
    return reinterpret_cast<T*>(data_ + at);
  }

 private:
  char* data_;
};

}  // namespace mfvis
