// One block, because there are a few thousand sums at most and the following launches wait for the scalar. A thread
// sums elements of one column that lie a whole number of rows apart, so that the block reads whole rows:
//
//   part    [rows at a time][columns]  loss, weight     shared memory, at most 256 of each
//
// The parts of a column are then added pairwise, and one thread adds the columns' means: repeatable.
#include "../../common/cuda.h"
#include "../mean_of_terms.h"

namespace mfvis {
namespace {

constexpr int threads = 256;

struct Part {
  double loss, weight;
};

template <typename C>
__global__ void __launch_bounds__(threads)
    mean(MeanOfTerms args, const C* loss_sum, const C* weight_sum, C* loss, C* divisor) {
  Part* const parts = shared_memory<Part>();  // [256]
  const int own = threadIdx.x;
  double total = 0;
  for (int64_t first = 0; first < args.columns; first += threads) {
    const int width = static_cast<int>(args.columns - first < threads ? args.columns - first : threads);
    const int together = threads / width;
    Part part{0, 0};
    if (own < together * width) {
      for (int64_t row = own / width; row < args.rows; row += together) {
        const int64_t at = row * args.columns + first + own % width;
        part.loss += static_cast<double>(loss_sum[at]);
        part.weight += static_cast<double>(weight_sum[at]);
      }
    }
    parts[own] = part;
    __syncthreads();
    for (int left = together; left > 1; left = (left + 1) / 2) {
      const int half = (left + 1) / 2;
      if (own < (left - half) * width) {
        parts[own].loss += parts[own + half * width].loss;
        parts[own].weight += parts[own + half * width].weight;
      }
      __syncthreads();
    }
    if (own < width) {
      part = parts[own];
      const C divided_by = static_cast<C>(part.weight > 1 ? part.weight : 1);
      divisor[first + own] = divided_by;
      parts[own].loss = part.loss / static_cast<double>(divided_by);
    }
    __syncthreads();
    if (own == 0) {
      for (int at = 0; at < width; ++at) total += parts[at].loss;
    }
    __syncthreads();
  }
  if (own == 0) *loss = static_cast<C>(total);
}

template <typename C>
__global__ void __launch_bounds__(threads)
    broadcast_grad(MeanOfTerms args, const C* grad_loss, const C* divisor, C* grad_loss_sum) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < args.rows * args.columns; i += step) {
    grad_loss_sum[i] = *grad_loss / divisor[i % args.columns];
  }
}

void mean_of_terms(const MeanOfTerms& args, const void* loss_sum, const void* weight_sum, void* loss, void* divisor) {
  const auto in = [&](auto zero) {
    using C = decltype(zero);
    launch("mean_of_terms", mean<C>, dim3(1), threads, threads * sizeof(Part), args, static_cast<const C*>(loss_sum),
           static_cast<const C*>(weight_sum), static_cast<C*>(loss), static_cast<C*>(divisor));
  };
  args.in_double ? in(0.0) : in(0.0f);
}

void mean_of_terms_backward(const MeanOfTerms& args, const void* grad_loss, const void* divisor, void* grad_loss_sum) {
  const auto in = [&](auto zero) {
    using C = decltype(zero);
    launch("mean_of_terms", broadcast_grad<C>, grid_for(args.rows * args.columns, threads), threads, 0, args,
           static_cast<const C*>(grad_loss), static_cast<const C*>(divisor), static_cast<C*>(grad_loss_sum));
  };
  args.in_double ? in(0.0) : in(0.0f);
}

MFVIS_CUDA_KERNEL(mean_of_terms_kernel, mean_of_terms)
MFVIS_CUDA_KERNEL(mean_of_terms_backward_kernel, mean_of_terms_backward)

}  // namespace
}  // namespace mfvis
