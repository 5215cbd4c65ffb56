// One thread per distance. Floor: 8 bytes of traffic per element.
#include "../../common/cuda.h"
#include "../../common/math.h"
#include "../match_weight.h"

namespace mfvis {
namespace {

constexpr int threads = 256;

// exp(-d / 2σ) or exp(-(d / σ)² / 2).
template <bool gaussian>
__global__ void __launch_bounds__(threads) weigh(MatchWeight args, float rate) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < args.count; i += step) {
    const float distance = args.distance[i], scaled = distance * rate;
    const float affinity = exp_of_negative(gaussian ? -0.5f * scaled * scaled : -scaled);
    args.weight[i] = distance <= args.limit ? (args.weighted ? affinity : 1.0f) : 0.0f;
  }
}

void match_weight(const MatchWeight& args) {
  const float rate = args.gaussian ? 1 / args.sigma : 0.5f / args.sigma;
  launch("match_weight", args.gaussian ? weigh<true> : weigh<false>, grid_for(args.count, threads), threads, 0, args,
         rate);
}

MFVIS_CUDA_KERNEL(match_weight_kernel, match_weight)

}  // namespace
}  // namespace mfvis
