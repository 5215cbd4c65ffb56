#include "races.h"

namespace mfvis::emulator {

void Races::start_launch() {
  ++launch_;
  released_.clear();
  if (pages_.size() > 256) pages_.clear();
  last_page_ = nullptr;
}

void Races::start_block() {
  observed_.clear();
  acquired_.clear();
}

void Races::fence() { acquired_.insert(observed_.begin(), observed_.end()); }

void Races::atomic(const Access& access, const void* address, bool released) {
  std::set<int32_t>& blocks = released_[reinterpret_cast<uintptr_t>(address)];
  observed_.insert(blocks.begin(), blocks.end());
  if (released) blocks.insert(access.block);
}

Races::Page& Races::page_of(uintptr_t address) {
  const uintptr_t index = address / Page::bytes;
  if (last_page_ == nullptr || index != last_index_) {
    last_page_ = &pages_[index];
    last_index_ = index;
  }
  if (last_page_->launch != launch_) {
    last_page_->launch = launch_;
    last_page_->uses.assign(Page::bytes / unit_, Uses{});
  }
  return *last_page_;
}

bool Races::races(const Access& before, const Access& now) const {
  if (before.block < 0 || (before.atomic && now.atomic)) return false;
  if (before.block != now.block) return acquired_.count(before.block) == 0;
  const bool same_warp = before.thread / 32 == now.thread / 32;
  return before.thread != now.thread && before.block_barriers == now.block_barriers &&
         !(same_warp && before.warp_barriers < now.warp_barriers);
}

std::string Races::add(const Access& access, const void* address, size_t size, bool writes) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t at = first & ~(unit_ - 1); at < first + size; at += unit_) {
    Uses& uses = page_of(at).uses[at % Page::bytes / unit_];
    const Access* other = races(uses.write, access) ? &uses.write : nullptr;
    if (writes && races(uses.read, access)) other = &uses.read;
    if (writes && races(uses.other_read, access)) other = &uses.other_read;
    if (other != nullptr) {
      const auto name = [](const Access& a) {
        return "thread " + std::to_string(a.thread) + " of block " + std::to_string(a.block);
      };
      return name(*other) + " and " + name(access) + " use the same " + memory_ +
             " memory, one of them writes it, and nothing orders them: " +
             (other->block == access.block ? "a barrier" : "a fence and an atomic operation") + " is missing";
    }
    if (writes) {
      uses.write = access;
    } else {
      if (uses.read.block != access.block || uses.read.thread / 32 != access.thread / 32) uses.other_read = uses.read;
      uses.read = access;
    }
  }
  return "";
}

}  // namespace mfvis::emulator
