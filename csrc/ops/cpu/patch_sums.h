// Squared distances of patches along a row of pixels, shared by temporal_topk and patch_distance: frames padded with
// zeros by half a patch, then squares -> sums over the patch's rows -> sums over its columns. All loops vectorize.
#pragma once

#include <cstdint>

#include "../../common/arithmetic.h"
#include "../../common/dtype.h"
#include "../../common/parallel.h"

namespace mfvis {
namespace {

// planes: [count, H, W]; padded: [count, H + 2h, stride], zeros around each plane, at least h on each side.
template <typename T, typename Real>
void pad(const T* planes, int64_t count, int64_t height, int64_t width, int64_t h, int64_t stride, Real* padded) {
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      Real* const to = padded + plane * (height + 2 * h) * stride;
      const T* const from = planes + plane * height * width;
      for (int64_t x = 0; x < (height + 2 * h) * stride; ++x) to[x] = 0;
      for (int64_t y = 0; y < height; ++y) {
        Real* const row = to + (y + h) * stride + h;
        for (int64_t x = 0; x < width; ++x) row[x] = static_cast<Real>(load(from[y * width + x]));
      }
    }
  });
}

// squares[x] = sum over channels of (target - source)². C = 0: any number of channels. The planes are the distances
// between the channels of each.
template <int C, typename Real>
void squared_difference(const Real* target, int64_t target_plane, const Real* source, int64_t source_plane,
                        int64_t channels, int64_t size, Real* __restrict squares) {
  if (C > 0) {
    for (int64_t x = 0; x < size; ++x) {
      Real sum = 0;
      for (int c = 0; c < C; ++c) {
        const Real difference = target[c * target_plane + x] - source[c * source_plane + x];
        sum += difference * difference;
      }
      squares[x] = sum;
    }
    return;
  }
  for (int64_t x = 0; x < size; ++x) squares[x] = 0;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t x = 0; x < size; ++x) {
      const Real difference = target[c * target_plane + x] - source[c * source_plane + x];
      squares[x] += difference * difference;
    }
  }
}

// sums[x] = rows[x] + rows[x + step] + ..., `count` terms. COUNT = 0: any number.
template <int COUNT, typename Real>
void sum_of(const Real* rows, int64_t step, int64_t count, int64_t size, Real* __restrict sums) {
  if (COUNT > 0) {
    for (int64_t x = 0; x < size; ++x) {
      Real sum = rows[x];
      for (int j = 1; j < COUNT; ++j) sum += rows[j * step + x];
      sums[x] = sum;
    }
    return;
  }
  for (int64_t x = 0; x < size; ++x) sums[x] = rows[x];
  for (int64_t j = 1; j < count; ++j) {
    for (int64_t x = 0; x < size; ++x) sums[x] += rows[j * step + x];
  }
}

template <typename Real>
using Square = void(const Real*, int64_t, const Real*, int64_t, int64_t, int64_t, Real*);
template <typename Real>
using Sum = void(const Real*, int64_t, int64_t, int64_t, Real*);

template <typename Real>
Square<Real>* square_of(int64_t channels) {
  return channels == 3   ? squared_difference<3, Real>
         : channels == 1 ? squared_difference<1, Real>
                         : squared_difference<0, Real>;
}

template <typename Real>
Sum<Real>* sum_over(int64_t patch_size) {
  return patch_size == 1   ? sum_of<1, Real>
         : patch_size == 3 ? sum_of<3, Real>
         : patch_size == 5 ? sum_of<5, Real>
                           : sum_of<0, Real>;
}

}  // namespace
}  // namespace mfvis
