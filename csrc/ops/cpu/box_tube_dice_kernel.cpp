#include "../box_tube_dice.h"

#include "../../common/dtype.h"
#include "../../common/parallel.h"

namespace mfvis {
namespace {

double overlap(double from_a, double to_a, double from_b, double to_b) {
  const double length = (to_a < to_b ? to_a : to_b) - (from_a > from_b ? from_a : from_b);
  return length > 0 ? length : 0;
}

double intersection(const float* a, const float* b) {
  return overlap(a[0], a[2], b[0], b[2]) * overlap(a[1], a[3], b[1], b[3]);
}

void box_tube_dice(const BoxTubeDice& args) {
  const int64_t frames = args.frames;
  const int64_t grain = 16384 / (1 + args.count_b * frames);
  parallel_for(args.count_a, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < args.count_b; ++j) {
        double common = 0, total = 0;
        for (int64_t t = 0; t < frames; ++t) {
          const float* a = args.boxes_a + (i * frames + t) * 4;
          const float* b = args.boxes_b + (j * frames + t) * 4;
          common += intersection(a, b);
          total += intersection(a, a) + intersection(b, b);
        }
        args.dice[i * args.count_b + j] = total > 0 ? static_cast<float>(2 * common / total) : 0;
      }
    }
  });
}

MFVIS_CPU_KERNEL(box_tube_dice_kernel, box_tube_dice)

}  // namespace
}  // namespace mfvis
