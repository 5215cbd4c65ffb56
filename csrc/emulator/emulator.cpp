#include "emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "races.h"

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
  const void* site = nullptr;  // of the collective in which lanes wait
  unsigned mask = 0;
  uint64_t synced = 0;  // the barrier's count at the last __syncwarp(): shuffles order no memory
  uint64_t shown[32];
};

// One launch at a time: autograd has its own threads.
std::mutex one_launch;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
Barrier whole_block;
unsigned alive;
uint64_t progress;  // counts every step; without any, the threads wait for each other forever
uint64_t block_index;
Fiber* running;
ucontext_t scheduler;
std::vector<unsigned char> shared;
std::string fault;  // the first one of the launch
Races shared_races("shared", 1), global_races("global", 2);
bool in_atomic = false;
std::vector<bool> fenced;  // by thread of the block
std::mt19937 random_order{0};
void (*body_of_launch)(const void*);
const void* context_of_launch;

unsigned index_of(const Fiber* fiber) { return static_cast<unsigned>(fiber - fibers.data()); }

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

void report(const std::string& found) {
  if (fault.empty()) fault = found;
}

void wait_for_warp(unsigned mask, const void* site) {
  Warp& warp = warps[index_of(running) / 32];
  if ((mask >> (index_of(running) % 32) & 1u) == 0) report("a lane's own bit is not in the mask of its collective");
  if (warp.barrier.arrived == 0) {
    warp.site = site;
    warp.mask = mask;
  }
  if (warp.mask != mask) report("the lanes of a warp have different masks in a collective");
  if (warp.site != site) report("the lanes of a warp meet in different collectives");
  wait(warp.barrier, static_cast<unsigned>(__builtin_popcount(mask)));
}

void enter() {
  body_of_launch(context_of_launch);
  running->done = true;
  ++progress;
  // As on a GPU, a barrier does not wait for threads that have ended.
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

Access access_of_running() {
  const unsigned i = index_of(running);
  return {static_cast<int32_t>(block_index), static_cast<int16_t>(i), in_atomic,
          static_cast<uint32_t>(whole_block.opened), static_cast<uint32_t>(warps[i / 32].synced)};
}

void note_access(const void* address, size_t size, bool writes) {
  if (running == nullptr || !fault.empty()) return;
  const unsigned char* const at = static_cast<const unsigned char*>(address);
  const char* const stack = running->stack.get();
  if (static_cast<const char*>(address) >= stack && static_cast<const char*>(address) < stack + stack_bytes) return;
  const bool is_shared = at >= shared.data() && at < shared.data() + shared.size();
  const std::string race = (is_shared ? shared_races : global_races).add(access_of_running(), address, size, writes);
  if (!race.empty()) report(race);
}

void note_misaligned() { report("a thread uses an address that its type's alignment forbids, which faults on a GPU"); }

void run_block(const char* op, int64_t shared_size) {
  const unsigned count = block_size.x * block_size.y * block_size.z;
  std::fill(shared.begin(), shared.end(), poison);
  shared_races.start_launch();
  global_races.start_block();
  fenced.assign(count, false);
  std::fill(warps.begin(), warps.end(), Warp{});
  whole_block = Barrier{};
  alive = count;
  for (unsigned i = 0; i < count; ++i) {
    start(fibers[i], {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y});
  }
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0);
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
      report("the threads of a block wait for each other forever: a barrier or a shuffle that not all of them reach");
      break;
    }
  }
  running = nullptr;
  const auto guard = shared.begin() + shared_size;
  if (std::any_of(guard, shared.end(), [](unsigned char byte) { return byte != poison; })) {
    report("a write behind the end of the shared memory");
  }
  if (!fault.empty()) throw std::runtime_error(std::string("mfvis::") + op + ": " + std::exchange(fault, ""));
}

}  // namespace

void* shared_bytes() { return shared.data(); }

unsigned lane() { return index_of(running) % 32; }

void block_barrier() { wait(whole_block, alive); }

void fence() {
  fenced[index_of(running)] = true;
  global_races.fence();
}

void begin_atomic(const void* address) {
  in_atomic = true;
  global_races.atomic(access_of_running(), address, fenced[index_of(running)]);
}

void end_atomic() { in_atomic = false; }

void warp_barrier(unsigned mask) {
  wait_for_warp(mask, __builtin_return_address(0));
  Warp& warp = warps[index_of(running) / 32];
  warp.synced = warp.barrier.opened;
}

const uint64_t* show_to_warp(unsigned mask, uint64_t value) {
  Warp& warp = warps[index_of(running) / 32];
  static uint64_t seen[32];
  const void* const site = __builtin_return_address(0);
  warp.shown[lane()] = value;
  wait_for_warp(mask, site);
  uint64_t mine[32];
  std::copy(std::begin(warp.shown), std::end(warp.shown), mine);
  wait_for_warp(mask, site);  // No lane shows the next value before all have seen this one.
  std::copy(std::begin(mine), std::end(mine), seen);
  return seen;
}

void run(const char* op, dim3 grid, dim3 block_dim, int64_t shared_size, void (*body)(const void*),
         const void* context) {
  const std::lock_guard<std::mutex> lock(one_launch);
  const uint64_t threads = uint64_t{block_dim.x} * block_dim.y * block_dim.z;
  if (threads == 0 || threads > 1024 || block_dim.z > 64 || grid.y > 65535 || grid.z > 65535 ||
      shared_size > 227 * 1024) {
    throw std::runtime_error(std::string("mfvis::") + op + ": no GPU supports this launch: " + std::to_string(threads) +
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
  global_races.start_launch();
  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random_order);
  for (const uint64_t i : order) {
    block_index = i;
    block = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
             static_cast<unsigned>(i / grid.x / grid.y)};
    run_block(op, shared_size);
  }
}

}  // namespace mfvis::emulator

#ifndef __SANITIZE_ADDRESS__
// The compiler inserts calls of these functions at every memory access of the kernels (-fsanitize=thread) and at
// unaligned ones (-fsanitize=alignment). The sanitizers' own libraries are not linked.
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
#endif
