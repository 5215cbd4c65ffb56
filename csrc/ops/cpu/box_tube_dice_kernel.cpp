#include "../box_tube_dice.h"

#include "../../common/parallel.h"
#include "../../common/scratch.h"

namespace mfvis {
namespace {

double overlap(double from_a, double to_a, double from_b, double to_b) {
  const double length = (to_a < to_b ? to_a : to_b) - (from_a > from_b ? from_a : from_b);
  return length > 0 ? length : 0;
}

// The intersection areas of two box tubes, summed over the frames.
double intersection(const float* a, const float* b, int64_t frames) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t t = 0; t < 4 * frames; t += 4) {
    sum += overlap(a[t], a[t + 2], b[t], b[t + 2]) * overlap(a[t + 1], a[t + 3], b[t + 1], b[t + 3]);
  }
  return sum;
}

void box_tube_dice(const BoxTubeDice& args) {
  const int64_t frames = args.frames, tube = 4 * frames;
  const Scratch<double> volume_b(args.count_b);
  for (int64_t j = 0; j < args.count_b; ++j) {
    volume_b[j] = intersection(args.boxes_b + j * tube, args.boxes_b + j * tube, frames);
  }
  const int64_t grain = 1 + 16384 / (1 + args.count_b * frames);
  parallel_for(args.count_a, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* const a = args.boxes_a + i * tube;
      const double volume_a = intersection(a, a, frames);
      for (int64_t j = 0; j < args.count_b; ++j) {
        const double both = volume_a + volume_b[j];
        const double common = intersection(a, args.boxes_b + j * tube, frames);
        args.dice[i * args.count_b + j] = both > 0 ? static_cast<float>(2 * common / both) : 0;
      }
    }
  });
}

MFVIS_CPU_KERNEL(box_tube_dice_kernel, box_tube_dice)

}  // namespace
}  // namespace mfvis
