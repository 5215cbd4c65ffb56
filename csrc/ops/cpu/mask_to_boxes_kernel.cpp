#include "../mask_to_boxes.h"

#include "../../common/parallel.h"

namespace mfvis {
namespace {

template <typename T>
bool row_has_any(const T* row, int64_t width, Compute<T> threshold) {
  int any = 0;
  for (int64_t x = 0; x < width; ++x) any |= load(row[x]) > threshold;
  return any != 0;
}

// Extends the box by the columns left of `from` and from `to` on that a row contains: the search runs towards the box
// and stops at its edge.
template <typename T>
void widen(const T* row, int64_t width, Compute<T> threshold, int64_t* from, int64_t* to) {
  for (int64_t x = 0; x < *from; ++x) {
    if (load(row[x]) > threshold) *from = x;
  }
  for (int64_t x = width - 1; x >= *to; --x) {
    if (load(row[x]) > threshold) *to = x + 1;
  }
}

template <typename T>
void find_boxes(const MaskToBoxes& args) {
  const int64_t height = args.height, width = args.width;
  const Compute<T> threshold = static_cast<Compute<T>>(args.threshold);
  parallel_for(args.count, 1 + 32768 / (height * width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const frame = static_cast<const T*>(args.logits) + i * height * width;
      int64_t top = 0, bottom = height;
      while (top < height && !row_has_any(frame + top * width, width, threshold)) ++top;
      if (top == height) continue;  // The boxes are initialized to zero.
      while (!row_has_any(frame + (bottom - 1) * width, width, threshold)) --bottom;
      int64_t left = width, right = 0;
      for (int64_t y = top; y < bottom; ++y) widen(frame + y * width, width, threshold, &left, &right);
      float* const box = args.boxes + i * 4;
      box[0] = static_cast<float>(left);
      box[1] = static_cast<float>(top);
      box[2] = static_cast<float>(right);
      box[3] = static_cast<float>(bottom);
    }
  });
}

void mask_to_boxes(const MaskToBoxes& args) {
  with_floating_type(args.dtype, [&](auto element) { find_boxes<decltype(element)>(args); });
}

MFVIS_CPU_KERNEL(mask_to_boxes_kernel, mask_to_boxes)

}  // namespace
}  // namespace mfvis
