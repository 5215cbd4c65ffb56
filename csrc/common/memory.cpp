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
  int64_t stamped;  // bytes of contents, 0 if there are none
  int64_t stamp;
};

namespace {

constexpr int64_t most_kept = 64 << 20;

// Whoever takes a block out of here owns it; a call at the same time finds nothing and allocates its own. No lock: a
// process that is forked while another thread holds one would wait for ever.
constexpr int places = 4;
std::atomic<Block*> kept[places];
std::atomic<int64_t> kept_bytes{0};

Block* take_out(std::atomic<Block*>& place) {
  Block* const block = place.exchange(nullptr);
  if (block != nullptr) kept_bytes -= block->bytes;
  return block;
}

void release(Block* block) {
  if (block == nullptr) return;
  std::free(block->data);
  delete block;
}

void keep(Block* block) {
  static const char* const wish = std::getenv("MFVIS_KEEP_MEMORY");
  if (block->bytes > most_kept || (wish != nullptr && std::strcmp(wish, "0") == 0)) return release(block);
  for (auto& place : kept) {
    if (kept_bytes + block->bytes > most_kept) release(take_out(place));
  }
  kept_bytes += block->bytes;
  for (auto& place : kept) {
    Block* nothing = nullptr;
    if (place.compare_exchange_strong(nothing, block)) return;
  }
  // Sizes change with the data: what was kept longest goes.
  static std::atomic<uint32_t> turn{0};
  Block* const oldest = kept[turn++ % places].exchange(block);
  if (oldest != nullptr) kept_bytes -= oldest->bytes;
  release(oldest);
}

// One with the contents of the stamp, else one that is large enough and not much too large, else none.
Block* find(int64_t bytes, int64_t stamp) {
  Block* found = nullptr;
  for (auto& place : kept) {
    Block* block = take_out(place);
    if (block == nullptr) continue;
    const bool has_contents = stamp != 0 && block->stamp == stamp && block->stamped == bytes;
    const bool fits = block->bytes >= bytes && block->bytes / 2 <= bytes && (stamp != 0 || block->stamped == 0);
    if (has_contents || (fits && found == nullptr)) std::swap(found, block);
    if (block != nullptr) keep(block);
  }
  return found;
}

// On huge pages, the last of which is worth one if it is filled by a quarter or more. What is not written whole stays
// without them: its untouched pages cost nothing.
Block* make(int64_t bytes, bool written_whole) {
  const bool large = written_whole && bytes >= huge_page;
  const int64_t paged = large ? (bytes + huge_page * 3 / 4) / huge_page * huge_page : 0;
  const int64_t size = ((bytes > paged ? bytes : paged) + 63) / 64 * 64;
  void* const data = std::aligned_alloc(large ? huge_page : 64, static_cast<size_t>(size));
  if (data == nullptr) throw std::bad_alloc();
  use_huge_pages(data, paged);
  return new Block{static_cast<char*>(data), size, 0, 0};
}

}  // namespace

void use_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  const int64_t skipped = -static_cast<int64_t>(reinterpret_cast<uintptr_t>(data)) & (huge_page - 1);
  const int64_t whole = (bytes - skipped) / huge_page * huge_page;
  if (whole > 0) madvise(static_cast<char*>(data) + skipped, static_cast<size_t>(whole), MADV_HUGEPAGE);
#endif
}

int64_t KeptMemory::new_stamp() {
  static std::atomic<int64_t> last{0};
  return ++last;
}

KeptMemory::KeptMemory(int64_t bytes, int64_t stamp) : bytes_(bytes), stamp_(stamp), block_(find(bytes, stamp)) {
  if (block_ == nullptr) block_ = make(bytes, stamp == 0);
  has_contents_ = stamp != 0 && block_->stamped == bytes && block_->stamp == stamp;
  if (!has_contents_) block_->stamped = 0;
  data_ = block_->data;
}

void KeptMemory::stamp_contents() {
  block_->stamped = bytes_;
  block_->stamp = stamp_;
  has_contents_ = true;
}

KeptMemory::~KeptMemory() { keep(block_); }

}  // namespace mfvis
