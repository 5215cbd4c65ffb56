#include "memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace mfvis {
namespace {

constexpr int64_t most_kept = 64 << 20;

// The head of a block, as long as a cache line, so that what follows it is aligned.
struct alignas(64) Block {
  int64_t bytes;
  int64_t stamped;  // bytes of contents, 0 if there are none
  int64_t stamp;
};

Block* block_of(char* data) { return reinterpret_cast<Block*>(data) - 1; }

bool keeps(const Block& block) {
  static const char* const wish = std::getenv("MFVIS_KEEP_MEMORY");
  return block.bytes <= most_kept && (wish == nullptr || std::strcmp(wish, "0") != 0);
}

// Whoever takes the block out of here owns it; a call at the same time finds nothing and allocates its own.
std::atomic<Block*> kept{nullptr};

}  // namespace

int64_t huge_pages(int64_t bytes) {
  return bytes < huge_page ? 0 : (bytes + huge_page * 3 / 4) / huge_page * huge_page;
}

int64_t to_huge_page(const void* data) {
  return -static_cast<int64_t>(reinterpret_cast<uintptr_t>(data)) & (huge_page - 1);
}

void use_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  const int64_t skipped = to_huge_page(data), whole = (bytes - skipped) / huge_page * huge_page;
  if (whole > 0) madvise(static_cast<char*>(data) + skipped, static_cast<size_t>(whole), MADV_HUGEPAGE);
#endif
}

int64_t KeptMemory::new_stamp() {
  static std::atomic<int64_t> last{0};
  return ++last;
}

KeptMemory::KeptMemory(int64_t bytes, int64_t stamp) : bytes_(bytes), stamp_(stamp) {
  Block* block = kept.exchange(nullptr);
  if (block == nullptr || block->bytes < bytes) {
    std::free(block);
    const size_t size = sizeof(Block) + (static_cast<size_t>(bytes) + 63) / 64 * 64;
    block = static_cast<Block*>(std::aligned_alloc(alignof(Block), size));
    if (block == nullptr) throw std::bad_alloc();
    *block = {bytes, 0, 0};
  }
  has_contents_ = block->stamped == bytes && block->stamp == stamp;
  if (!has_contents_) block->stamped = 0;
  data_ = reinterpret_cast<char*>(block + 1);
}

void KeptMemory::stamp_contents() {
  block_of(data_)->stamped = bytes_;
  block_of(data_)->stamp = stamp_;
  has_contents_ = true;
}

KeptMemory::~KeptMemory() {
  Block* block = block_of(data_);
  std::free(keeps(*block) ? kept.exchange(block) : block);
}

}  // namespace mfvis
