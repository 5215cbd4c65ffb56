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

// Working memory that stays with the process when it is given back, one block of at most 64 MB, so that the next call
// finds its pages there, and maybe what the call before left in them: contents that were stamped are there again for
// whoever comes with the same stamp before anybody else has used the memory. None is kept with MFVIS_KEEP_MEMORY=0 in
// the environment.
class KeptMemory {
 public:
  // A stamp that nobody has.
  static int64_t new_stamp();

  KeptMemory(int64_t bytes, int64_t stamp);
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
  char* data_;
};

}  // namespace mfvis
