#include "../match_weight.h"

#include "../../common/math.h"
#include "../../common/parallel.h"

namespace mfvis {
namespace {

void match_weight(const MatchWeight& args) {
  const float limit = args.limit;
  // exp(-d / 2σ) or exp(-(d / σ)² / 2).
  const float rate = args.gaussian ? 1 / args.sigma : 0.5f / args.sigma;
  parallel_for(args.count, 32768, [&](int64_t begin, int64_t end) {
    const float* const __restrict distance = args.distance;
    float* const __restrict weight = args.weight;
    if (!args.weighted) {
      for (int64_t i = begin; i < end; ++i) weight[i] = distance[i] <= limit ? 1.0f : 0.0f;
    } else if (args.gaussian) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float scaled = distance[i] * rate, affinity = exp_of_negative(-0.5f * scaled * scaled);
        weight[i] = distance[i] <= limit ? affinity : 0.0f;
      }
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float affinity = exp_of_negative(-distance[i] * rate);
        weight[i] = distance[i] <= limit ? affinity : 0.0f;
      }
    }
  });
}

MFVIS_CPU_KERNEL(match_weight_kernel, match_weight)

}  // namespace
}  // namespace mfvis
