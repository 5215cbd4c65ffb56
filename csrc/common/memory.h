// Where memory comes from decides what a call costs: the first touch of a fresh page of 4 KB takes up to 2 µs in a
// virtual machine, thirty times what filling it takes, and the C library gets large blocks fresh for every call.
#pragma once

#include <cstdint>

namespace mfvis {

constexpr int64_t huge_page = 2 << 20;

// Asks for huge pages below `data`, which is about to be written whole: one first touch per 2 MB. A hint and no more.
void use_huge_pages(void* data, int64_t bytes);

// Memory that stays with the process when it is given back, 64 MB at most and in four blocks, so that the next call
// finds its pages there, and maybe what the call before left in them: contents that were stamped are there again for
// whoever comes with the same stamp before others with a stamp have used the memory. None is kept with
// MFVIS_KEEP_MEMORY=0 in the environment.
class KeptMemory {
 public:
  // A stamp that nobody has.
  static int64_t new_stamp();

  // Without a stamp (0) it will be written whole, for which there are huge pages.
  explicit KeptMemory(int64_t bytes, int64_t stamp = 0);
  ~KeptMemory();
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;

  // Whether the contents of the stamp are there. If not, nothing is, until they are filled in and stamped.
  bool has_contents() const { return has_contents_; }
  void stamp_contents();

  // What lies from byte `at` on.
  template <typename T>
  T* from(int64_t at) const {
    return reinterpret_cast<T*>(data_ + at);
  }

 private:
  int64_t bytes_, stamp_;
  bool has_contents_;
  struct Block* block_;
  char* data_;
};

}  // namespace mfvis
