// Finds races in the memory of one launch: two threads use the same bytes, at least one of them writes, and nothing
// orders the two accesses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace mfvis::emulator {

// An access to memory: who, and after which barriers. The barriers of a block order all of its threads, __syncwarp()
// those of a warp; shuffles order no memory.
struct Access {
  int32_t block = -1;  // -1: none
  int16_t thread = -1;
  bool atomic = false;
  uint32_t block_barriers = 0, warp_barriers = 0;
};

class Races {
 public:
  // memory: its name for messages. unit: the smallest number of bytes that a kernel writes there.
  Races(const char* memory, uintptr_t unit) : memory_(memory), unit_(unit) {}

  // Forgets everything at the start of a launch, and what the new block has acquired at the start of a block.
  void start_launch();
  void start_block();

  // Adds an access. Returns the description of a race, or an empty string.
  std::string add(const Access& access, const void* address, size_t size, bool writes);

  // __threadfence() of a thread, and an atomic operation of a thread that ran a fence before (`released`). A block that
  // sees another one's release in an atomic operation and then runs a fence is ordered behind it.
  void fence();
  void atomic(const Access& access, const void* address, bool released);

 private:
  // The last accesses to a unit.
  struct Uses {
    Access write, read;
    Access other_read;  // the last read by another warp or block than that of `read`
  };
  struct Page {
    static constexpr uintptr_t bytes = 4096;
    uint64_t launch = 0;
    std::vector<Uses> uses;
  };

  Page& page_of(uintptr_t address);
  bool races(const Access& before, const Access& now) const;

  const char* memory_;
  uintptr_t unit_;
  uint64_t launch_ = 0;
  std::unordered_map<uintptr_t, Page> pages_;
  uintptr_t last_index_ = 0;
  Page* last_page_ = nullptr;
  std::map<uintptr_t, std::set<int32_t>> released_;  // by address of the atomic operation: blocks
  std::set<int32_t> observed_, acquired_;            // by the current block
};

}  // namespace mfvis::emulator
