#include "emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace mfvis::emulator {

uint3 thread, block;
dim3 block_size, grid_size;

namespace {

constexpr size_t stack_bytes = 128 * 1024;
constexpr int64_t guard_bytes = 256;
constexpr unsigned char poison = 0xff;  // NaN as a float or a double, -1 as an integer

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  uint3 index;
  bool done;
};

struct Barrier {
  unsigned arrived = 0;
  uint64_t opened = 0;
};

struct Warp {
  Barrier barrier;
  uint64_t synced = 0;  // Of the barrier's openings, the last by __syncwarp(): shuffles order no memory.
  uint64_t shown[32];
};

// Who used a byte of shared memory, and after which barriers.
struct Access {
  int32_t thread = -1;
  uint64_t of_block = 0, of_warp = 0;
};
struct Uses {
  Access write, read, read_by_another_warp;
};

// One launch at a time: autograd calls from threads of its own.
std::mutex one_launch;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
Barrier whole_block;
unsigned alive;
uint64_t progress;  // counts what moves: without any, the threads wait for each other for ever
Fiber* running;
ucontext_t scheduler;
std::vector<unsigned char> shared;
std::vector<Uses> uses;
std::string fault;
std::mt19937 random_order{0};
void (*body_of_launch)(const void*);
const void* context_of_launch;

unsigned number_of(const Fiber* fiber) { return static_cast<unsigned>(fiber - fibers.data()); }

void yield() { swapcontext(&running->context, &scheduler); }

void open(Barrier& barrier) {
  barrier.arrived = 0;
  ++barrier.opened;
  ++progress;
}

void wait(Barrier& barrier, unsigned expected) {
  const uint64_t opened = barrier.opened;
  ++progress;
  if (++barrier.arrived == expected) open(barrier);
  while (barrier.opened == opened) yield();
}

void wait_for_warp(unsigned mask) {
  wait(warps[number_of(running) / 32].barrier, static_cast<unsigned>(__builtin_popcount(mask)));
}

void enter() {
  body_of_launch(context_of_launch);
  running->done = true;
  ++progress;
  // As on the GPU, a thread that has ended is not waited for.
  if (--alive > 0 && whole_block.arrived == alive) open(whole_block);
  yield();
}

void start(Fiber& fiber, uint3 index) {
  if (!fiber.stack) fiber.stack.reset(new char[stack_bytes]);
  fiber.index = index;
  fiber.done = false;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = stack_bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

bool conflict(const Access& before, const Access& now) {
  const bool one_warp = before.thread / 32 == now.thread / 32;
  return before.thread >= 0 && before.thread != now.thread && before.of_block == now.of_block &&
         !(one_warp && before.of_warp < now.of_warp);
}

// Without a barrier between them, no two threads may use a byte of shared memory if one of them writes.
void note_access(const void* address, size_t size, bool writes) {
  const size_t first = static_cast<size_t>(static_cast<const unsigned char*>(address) - shared.data());
  if (first >= uses.size() || running == nullptr) return;
  const Access now{static_cast<int32_t>(number_of(running)), whole_block.opened, warps[number_of(running) / 32].synced};
  for (size_t at = first; at < first + size && at < uses.size(); ++at) {
    Uses& use = uses[at];
    const Access* other = conflict(use.write, now) ? &use.write : nullptr;
    if (writes && conflict(use.read, now)) other = &use.read;
    if (writes && conflict(use.read_by_another_warp, now)) other = &use.read_by_another_warp;
    if (other != nullptr && fault.empty()) {
      fault = "threads " + std::to_string(other->thread) + " and " + std::to_string(now.thread) +
              " of a block use byte " + std::to_string(at) +
              " of the shared memory, one of them writes it, and no barrier is between";
    }
    if (writes) {
      use.write = now;
    } else {
      if (use.read.thread / 32 != now.thread / 32) use.read_by_another_warp = use.read;
      use.read = now;
    }
  }
}

void note_misaligned() {
  if (fault.empty()) fault = "a thread uses an address that its type's alignment forbids, where a GPU would give up";
}

void run_block(const char* op, int64_t shared_size) {
  const unsigned count = block_size.x * block_size.y * block_size.z;
  std::fill(shared.begin(), shared.end(), poison);
  std::fill(uses.begin(), uses.end(), Uses{});
  std::fill(warps.begin(), warps.end(), Warp{});
  whole_block = Barrier{};
  alive = count;
  for (unsigned i = 0; i < count; ++i) {
    start(fibers[i], {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y});
  }
  std::vector<unsigned> order(count);
  for (unsigned i = 0; i < count; ++i) order[i] = i;
  while (alive > 0) {
    const uint64_t before = progress;
    std::shuffle(order.begin(), order.end(), random_order);
    for (const unsigned i : order) {
      if (fibers[i].done) continue;
      running = &fibers[i];
      thread = running->index;
      swapcontext(&scheduler, &running->context);
    }
    if (progress == before) {
      running = nullptr;
      throw std::runtime_error(std::string("mfvis::") + op + ": the threads of a block wait for each other for ever: " +
                               "a barrier or a shuffle that not all of them reach");
    }
  }
  running = nullptr;
  if (!fault.empty()) throw std::runtime_error(std::string("mfvis::") + op + ": " + std::exchange(fault, ""));
  for (size_t i = static_cast<size_t>(shared_size); i < shared.size(); ++i) {
    if (shared[i] != poison) {
      throw std::runtime_error(std::string("mfvis::") + op + ": a write behind the end of the shared memory");
    }
  }
}

}  // namespace

void* shared_bytes() { return shared.data(); }

unsigned lane() { return number_of(running) % 32; }

void block_barrier() { wait(whole_block, alive); }

void warp_barrier(unsigned mask) {
  wait_for_warp(mask);
  Warp& warp = warps[number_of(running) / 32];
  warp.synced = warp.barrier.opened;
}

const uint64_t* show_to_warp(unsigned mask, uint64_t value) {
  Warp& warp = warps[number_of(running) / 32];
  static uint64_t seen[32];
  warp.shown[lane()] = value;
  wait_for_warp(mask);
  uint64_t mine[32];
  std::copy(std::begin(warp.shown), std::end(warp.shown), mine);
  wait_for_warp(mask);  // Nobody shows the next value before all have seen this one.
  std::copy(std::begin(mine), std::end(mine), seen);
  return seen;
}

void run(const char* op, dim3 grid, dim3 block_dim, int64_t shared_size, void (*body)(const void*),
         const void* context) {
  const std::lock_guard<std::mutex> lock(one_launch);
  const uint64_t threads = uint64_t{block_dim.x} * block_dim.y * block_dim.z;
  if (threads == 0 || threads > 1024 || block_dim.z > 64 || grid.y > 65535 || grid.z > 65535 ||
      shared_size > 227 * 1024) {
    throw std::runtime_error(std::string("mfvis::") + op + ": no GPU takes this launch: " + std::to_string(threads) +
                             " threads a block, " + std::to_string(shared_size) + " bytes of shared memory, grid (" +
                             std::to_string(grid.x) + ", " + std::to_string(grid.y) + ", " + std::to_string(grid.z) +
                             ")");
  }
  body_of_launch = body;
  context_of_launch = context;
  grid_size = grid;
  block_size = block_dim;
  if (fibers.size() < threads) fibers = std::vector<Fiber>(1024);
  warps.resize((threads + 31) / 32);
  shared.resize(static_cast<size_t>(shared_size + guard_bytes));
  uses.resize(static_cast<size_t>(shared_size));
  for (block.z = 0; block.z < grid.z; ++block.z) {
    for (block.y = 0; block.y < grid.y; ++block.y) {
      for (block.x = 0; block.x < grid.x; ++block.x) run_block(op, shared_size);
    }
  }
}

}  // namespace mfvis::emulator

// What the compiler calls at every access of the kernels to memory, by -fsanitize=thread, and at those that are not
// aligned, by -fsanitize=alignment; the sanitizers' own libraries are not linked.
extern "C" {
#define MFVIS_ACCESS(name, size, writes) \
  void name(const void* address) { mfvis::emulator::note_access(address, size, writes); }
#define MFVIS_ACCESSES(size)                             \
  MFVIS_ACCESS(__tsan_read##size, size, false)           \
  MFVIS_ACCESS(__tsan_write##size, size, true)           \
  MFVIS_ACCESS(__tsan_unaligned_read##size, size, false) \
  MFVIS_ACCESS(__tsan_unaligned_write##size, size, true)
MFVIS_ACCESSES(1)
MFVIS_ACCESSES(2)
MFVIS_ACCESSES(4)
MFVIS_ACCESSES(8)
MFVIS_ACCESSES(16)
void __tsan_read_range(const void* address, size_t size) { mfvis::emulator::note_access(address, size, false); }
void __tsan_write_range(const void* address, size_t size) { mfvis::emulator::note_access(address, size, true); }
void __tsan_func_entry(const void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __ubsan_handle_type_mismatch_v1(const void*, const void*) { mfvis::emulator::note_misaligned(); }
}
