// One thread per pair of tubes. Boxes are a few kilobytes, so volumes are recomputed rather than stored: the cost is
// the launch.
#include "../../common/cuda.h"
#include "../box_tube_dice.h"

namespace mfvis {
namespace {

constexpr int threads = 128;

__device__ double overlap(double from_a, double to_a, double from_b, double to_b) {
  const double length = (to_a < to_b ? to_a : to_b) - (from_a > from_b ? from_a : from_b);
  return length > 0 ? length : 0;
}

// The intersection areas of two box tubes, summed over the frames.
__device__ double intersection(const float* a, const float* b, int64_t frames) {
  double sum = 0;
  for (int64_t t = 0; t < 4 * frames; t += 4) {
    sum += overlap(a[t], a[t + 2], b[t], b[t + 2]) * overlap(a[t + 1], a[t + 3], b[t + 1], b[t + 3]);
  }
  return sum;
}

__global__ void __launch_bounds__(threads) dice_of_pairs(BoxTubeDice args) {
  const int64_t count = args.count_a * args.count_b, step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; item < count; item += step) {
    const float* const a = args.boxes_a + item / args.count_b * 4 * args.frames;
    const float* const b = args.boxes_b + item % args.count_b * 4 * args.frames;
    const double both = intersection(a, a, args.frames) + intersection(b, b, args.frames);
    args.dice[item] = both > 0 ? static_cast<float>(2 * intersection(a, b, args.frames) / both) : 0;
  }
}

void box_tube_dice(const BoxTubeDice& args) {
  launch("box_tube_dice", dice_of_pairs, grid_for(args.count_a * args.count_b, threads), threads, 0, args);
}

MFVIS_CUDA_KERNEL(box_tube_dice_kernel, box_tube_dice)

}  // namespace
}  // namespace mfvis
