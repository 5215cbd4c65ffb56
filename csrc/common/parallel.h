#pragma once

#include <cstdint>

namespace mfvis {

// Runs body(begin, end, context) on PyTorch's threads (torch.set_num_threads), in ranges of at least `grain` items. A
// thread that is done takes the next range, because items differ in cost and other programs use the cores as well.
void parallel_for(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, const void*), const void* context);

// The same for a lambda (begin, end). The ranges depend on the number of threads: for a repeatable sum, write one value
// per item and add them in order afterwards.
template <typename Body>
static inline void parallel_for(int64_t count, int64_t grain, const Body& body) {
  parallel_for(
      count, grain,
      [](int64_t begin, int64_t end, const void* context) { (*static_cast<const Body*>(context))(begin, end); }, &body);
}

}  // namespace mfvis
