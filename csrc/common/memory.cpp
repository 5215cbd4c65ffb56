#include "memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace mfvis {

struct Block {
  char* data;
  int64_t bytes;
  CachedBuffer::Use use;
};

namespace {

constexpr int64_t max_cached_bytes = 64 << 20;

// A block that is taken out has one owner. A concurrent call finds an empty slot and allocates its own block. There is
// no lock: a process forked while another thread holds one would wait forever.
constexpr int slot_count = 4;
std::atomic<Block*> slots[slot_count];
std::atomic<int64_t> cached_bytes{0};

Block* take_out(std::atomic<Block*>& slot) {
  Block* const block = slot.exchange(nullptr);
  if (block != nullptr) cached_bytes -= block->bytes;
  return block;
}

void release(Block* block) {
  if (block == nullptr) return;
  std::free(block->data);
  delete block;
}

void keep(Block* block) {
  static const char* const setting = std::getenv("MFVIS_KEEP_MEMORY");
  const bool disabled = setting != nullptr && std::strcmp(setting, "0") == 0;
  if (block->bytes > max_cached_bytes || disabled) return release(block);
  for (auto& slot : slots) {
    if (cached_bytes + block->bytes > max_cached_bytes) release(take_out(slot));
  }
  cached_bytes += block->bytes;
  for (auto& slot : slots) {
    Block* empty = nullptr;
    if (slot.compare_exchange_strong(empty, block)) return;
  }
  // Sizes change with the data: the oldest block makes room.
  static std::atomic<uint32_t> turn{0};
  Block* const oldest = slots[turn++ % slot_count].exchange(block);
  if (oldest != nullptr) cached_bytes -= oldest->bytes;
  release(oldest);
}

// A block for the same use that is large enough and at most twice as large, or null.
Block* find(int64_t bytes, CachedBuffer::Use use) {
  Block* found = nullptr;
  for (auto& slot : slots) {
    Block* block = take_out(slot);
    if (block == nullptr) continue;
    const bool fits = block->use == use && block->bytes >= bytes && block->bytes / 2 <= bytes;
    if (fits && found == nullptr) std::swap(found, block);
    if (block != nullptr) keep(block);
  }
  return found;
}

// Dense memory lies on huge pages, the last of which is worth it if a quarter of it is used.
Block* make(int64_t bytes, CachedBuffer::Use use) {
  const bool large = use == CachedBuffer::Use::dense && bytes >= huge_page;
  const int64_t paged = large ? (bytes + huge_page * 3 / 4) / huge_page * huge_page : 0;
  const int64_t size = ((bytes > paged ? bytes : paged) + 63) / 64 * 64;
  void* const data = std::aligned_alloc(large ? huge_page : 64, static_cast<size_t>(size));
  if (data == nullptr) throw std::bad_alloc();
  use_huge_pages(data, paged);
  return new Block{static_cast<char*>(data), size, use};
}

}  // namespace

void use_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  const int64_t skipped = -static_cast<int64_t>(reinterpret_cast<uintptr_t>(data)) & (huge_page - 1);
  const int64_t whole = (bytes - skipped) / huge_page * huge_page;
  if (whole > 0) madvise(static_cast<char*>(data) + skipped, static_cast<size_t>(whole), MADV_HUGEPAGE);
#endif
}

CachedBuffer::CachedBuffer(int64_t bytes, Use use) : block_(find(bytes, use)) {
  if (block_ == nullptr) block_ = make(bytes, use);
  data_ = block_->data;
}

CachedBuffer::~CachedBuffer() { keep(block_); }

}  // namespace mfvis
