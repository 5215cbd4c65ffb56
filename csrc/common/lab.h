// RGB to CIE-LAB (D65, 2° observer) with the constants of skimage.color.rgb2lab. The roots use Newton's method, which
// vectorizes.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace mfvis {

// Roots of x > 0 by Newton's method. Dividing the bits of the exponent gives an initial value within a few percent;
// every step squares the error.
static MFVIS_HOST_DEVICE float cube_root(float x) {
  float y = bits_as<float>(bits_as<uint32_t>(x) / 3 + 709921077u);
  for (int i = 0; i < 3; ++i) y = (2 * y + x / (y * y)) * (1.0f / 3);
  return y;
}

static MFVIS_HOST_DEVICE float fifth_root(float x) {
  float y = bits_as<float>(bits_as<uint32_t>(x) / 5 + 851826933u);
  for (int i = 0; i < 4; ++i) y = (4 * y + x / (y * y * y * y)) * (1.0f / 5);
  return y;
}

// The inverse sRGB transfer function: display value 0..1 to linear light.
static MFVIS_HOST_DEVICE float linear_light(float u) {
  const float base = (u + 0.055f) * (1 / 1.055f);
  const float root = fifth_root(base);
  return u > 0.04045f ? base * base * root * root : u * (1 / 12.92f);  // base^2.4
}

// CIE 15: a cube root, linear near black.
static MFVIS_HOST_DEVICE float lightness(float t) { return t > 0.008856f ? cube_root(t) : 7.787f * t + 16.0f / 116; }

// CIE-LAB of an RGB color in 0..1.
static MFVIS_HOST_DEVICE void lab_of(float red, float green, float blue, float& l, float& a, float& b) {
  const float r = linear_light(red), g = linear_light(green), bl = linear_light(blue);
  // Linear sRGB to XYZ, divided by the white point (0.95047, 1, 1.08883).
  const float fx = lightness((0.412453f * r + 0.357580f * g + 0.180423f * bl) * (1 / 0.95047f));
  const float fy = lightness(0.212671f * r + 0.715160f * g + 0.072169f * bl);
  const float fz = lightness((0.019334f * r + 0.119193f * g + 0.950227f * bl) * (1 / 1.08883f));
  l = 116 * fy - 16;
  a = 500 * (fx - fy);
  b = 200 * (fy - fz);
}

}  // namespace mfvis
