#pragma once

#include <cstdint>

namespace mfvis {

// body(begin, end, context) on the threads of torch (torch.set_num_threads), in ranges of at least `grain` items. A
// thread that is done takes the next range: items differ in cost, and other programs take their share of the cores.
void parallel_for(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, const void*), const void* context);

// The same for a lambda (begin, end). Where the cuts fall depends on the number of threads: a sum that is to be
// repeatable is written per item and added up afterwards in order.
template <typename Body>
static inline void parallel_for(int64_t count, int64_t grain, const Body& body) {
  parallel_for(
      count, grain,
      [](int64_t begin, int64_t end, const void* context) { (*static_cast<const Body*>(context))(begin, end); }, &body);
}

}  // namespace mfvis
