#include "parallel.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

#include "arithmetic.h"

namespace mfvis {

void parallel_for(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, const void*), const void* context) {
  if (count <= 0) return;
  constexpr int64_t ranges_per_thread = 8;
  const int64_t all_threads = torch::stable::get_num_threads();
  const int64_t range = std::max({int64_t{1}, grain, count / (ranges_per_thread * all_threads)});
  const int64_t threads = std::min(all_threads, ceil_div(count, range));
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(range)) < count;) body(begin, std::min(begin + range, count), context);
  });
}

}  // namespace mfvis
