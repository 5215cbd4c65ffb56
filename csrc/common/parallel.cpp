#include "parallel.h"

#include <torch/csrc/stable/ops.h>

namespace mfvis {

void parallel_for(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, const void*), const void* context) {
  if (count <= 0) return;
  torch::stable::parallel_for(0, count, grain < 1 ? 1 : grain,
                              [&](int64_t begin, int64_t end) { body(begin, end, context); });
}

}  // namespace mfvis
