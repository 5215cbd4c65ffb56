#include "../rgb_to_lab.h"

#include "../../common/lab.h"
#include "../../common/parallel.h"
#include "../../common/scratch.h"

namespace mfvis {
namespace {

// The block means of `downsample` rows of one plane, scaled to 0..1.
template <typename T>
void block_means(const T* plane, int64_t width, int64_t out_width, int64_t downsample, Compute<T>* sums, float* means) {
  for (int64_t x = 0; x < out_width; ++x) sums[x] = 0;
  for (int64_t dy = 0; dy < downsample; ++dy) {
    const T* const row = plane + dy * width;
    for (int64_t dx = 0; dx < downsample; ++dx) {
      for (int64_t x = 0; x < out_width; ++x) sums[x] += load(row[x * downsample + dx]);
    }
  }
  const Compute<T> scale = 1 / (255 * static_cast<Compute<T>>(downsample * downsample));
  for (int64_t x = 0; x < out_width; ++x) means[x] = static_cast<float>(sums[x] * scale);
}

template <typename T>
void convert(const RgbToLab& args) {
  const int64_t height = args.height, width = args.width, downsample = args.downsample;
  const int64_t out_height = height / downsample, out_width = width / downsample;
  const int64_t in_plane = height * width, out_plane = out_height * out_width;
  parallel_for(args.count * out_height, 1 + 4096 / out_width, [&](int64_t begin, int64_t end) {
    const Scratch<Compute<T>> sums(out_width);
    const Scratch<float> red(out_width), green(out_width), blue(out_width);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / out_height, y = item % out_height;
      const T* const from = static_cast<const T*>(args.images) + image * 3 * in_plane + y * downsample * width;
      block_means(from, width, out_width, downsample, sums, red);
      block_means(from + in_plane, width, out_width, downsample, sums, green);
      block_means(from + 2 * in_plane, width, out_width, downsample, sums, blue);

      float* const __restrict l_row = args.lab + image * 3 * out_plane + y * out_width;
      float* const __restrict a_row = l_row + out_plane;
      float* const __restrict b_row = a_row + out_plane;
      const float* const __restrict r_row = red;
      const float* const __restrict g_row = green;
      const float* const __restrict bl_row = blue;
#pragma omp simd
      for (int64_t x = 0; x < out_width; ++x) {
        lab_of(r_row[x], g_row[x], bl_row[x], l_row[x], a_row[x], b_row[x]);
      }
    }
  });
}

void rgb_to_lab(const RgbToLab& args) {
  with_image_type(args.dtype, [&](auto element) { convert<decltype(element)>(args); });
}

MFVIS_CPU_KERNEL(rgb_to_lab_kernel, rgb_to_lab)

}  // namespace
}  // namespace mfvis
