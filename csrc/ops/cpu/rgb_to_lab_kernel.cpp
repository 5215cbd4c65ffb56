#include "../rgb_to_lab.h"

#include "../../common/parallel.h"
#include "../../common/scratch.h"

namespace mfvis {
namespace {

// The root of x > 0 by Newton's method. Dividing the exponent, bits and all, is a guess within a few per cent; every
// step squares the error.
float cube_root(float x) {
  float y = bits_as<float>(bits_as<uint32_t>(x) / 3 + 709921077u);
  for (int i = 0; i < 3; ++i) y = (2 * y + x / (y * y)) * (1.0f / 3);
  return y;
}

float fifth_root(float x) {
  float y = bits_as<float>(bits_as<uint32_t>(x) / 5 + 851826933u);
  for (int i = 0; i < 4; ++i) y = (4 * y + x / (y * y * y * y)) * (1.0f / 5);
  return y;
}

// The sRGB transfer function backwards: display value 0..1 to linear light.
float linear_light(float u) {
  const float base = (u + 0.055f) * (1 / 1.055f);
  const float root = fifth_root(base);
  return u > 0.04045f ? base * base * root * root : u * (1 / 12.92f);  // base^2.4
}

// CIE 15: a cube root with a straight line near black, in the constants of skimage.
float lightness(float t) { return t > 0.008856f ? cube_root(t) : 7.787f * t + 16.0f / 116; }

// Rows `downsample`·i and the following of one plane, as their means in 0..1 over blocks.
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
        const float r = linear_light(r_row[x]), g = linear_light(g_row[x]), b = linear_light(bl_row[x]);
        // Linear sRGB to XYZ, over the white point D65 (0.95047, 1, 1.08883).
        const float fx = lightness((0.412453f * r + 0.357580f * g + 0.180423f * b) * (1 / 0.95047f));
        const float fy = lightness(0.212671f * r + 0.715160f * g + 0.072169f * b);
        const float fz = lightness((0.019334f * r + 0.119193f * g + 0.950227f * b) * (1 / 1.08883f));
        l_row[x] = 116 * fy - 16;
        a_row[x] = 500 * (fx - fy);
        b_row[x] = 200 * (fy - fz);
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
