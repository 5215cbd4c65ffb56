// Bands of rows go through the candidates, all loops run along rows, as in temporal_topk_kernel.cpp:
//
//   forward    squares (rows + 2h) x (W + 2h) -> sums of rows -> sums of columns -> square root, into the result
//   backward   ratios  (rows + 2h) x (W + 4h)   grad / distance at the patch centers, zero outside the frame
//              -> sums of rows -> sums of columns: the weight of pixel q, the sum over all patches that contain it
//              -> grad += weight(q) · (self - other), accumulated for the band's own pixels only
//
// With a displacement δ, pixel u of the target is contained in patches around q = u and compared with pixel u + δ of
// the source. Pixel u of the source is contained in those around q = u - δ and compared with pixel u - δ of the target.
// Patches reach h pixels beyond the frame, where the other frame is padded with zeros.
#include "../patch_distance.h"

#include "../../common/parallel.h"
#include "../../common/scratch.h"
#include "patch_sums.h"

namespace mfvis {
namespace {

constexpr int64_t band_rows = 8;

float square_root(float x) { return __builtin_sqrtf(x); }
double square_root(double x) { return __builtin_sqrt(x); }

// Sizes that all loops need, and the padded frames of one batch item.
template <typename Real>
struct Frames {
  Frames(const PatchDistance& args, int64_t item)
      : h(args.patch_size / 2),
        stride(args.width + 2 * h),
        plane((args.height + 2 * h) * stride),
        target(static_cast<const Real*>(args.padded) + item * args.channels * plane),
        source(target + args.batch * args.channels * plane) {}

  int64_t h, stride, plane;
  const Real *target, *source;
};

template <typename Real>
void fill(Real* row, int64_t begin, int64_t end, Real value) {
  for (int64_t x = begin; x < end; ++x) row[x] = value;
}

template <typename Real>
void distances_of_band(const PatchDistance& args, int64_t item, int64_t first_row, Real* squares, Real* columns,
                       Real* distance) {
  const int64_t height = args.height, width = args.width, taps = args.patch_size, side = 2 * args.radius + 1;
  const int64_t end_row = min(first_row + band_rows, height);
  const Frames<Real> frames(args, item);
  Square<Real>* const squared_difference = square_of<Real>(args.channels);
  Sum<Real>* const sum = sum_over<Real>(taps);
  for (int64_t index = 0; index < side * side; ++index) {
    const int64_t dy = args.dilation * (index / side - args.radius), dx = args.dilation * (index % side - args.radius);
    const int64_t y_begin = max(first_row, -dy), y_end = min(end_row, height - dy);
    const int64_t x_begin = min(max<int64_t>(0, -dx), width), x_end = max(x_begin, min(width, width - dx));
    Real* const result = distance + (item * side * side + index) * height * width;
    if (x_begin < x_end) {
      for (int64_t y = y_begin; y < y_end + taps - 1 && y_begin < y_end; ++y) {
        const int64_t at = y * frames.stride + x_begin;
        squared_difference(frames.target + at, frames.plane, frames.source + at + dy * frames.stride + dx, frames.plane,
                           args.channels, x_end - x_begin + taps - 1, squares + (y - y_begin) * frames.stride);
      }
    }
    for (int64_t y = first_row; y < end_row; ++y) {
      Real* const row = result + y * width;
      if (y < y_begin || y >= y_end || x_begin == x_end) {
        fill(row, 0, width, static_cast<Real>(__builtin_inf()));
        continue;
      }
      sum(squares + (y - y_begin) * frames.stride, frames.stride, taps, x_end - x_begin + taps - 1, columns);
      sum(columns, 1, taps, x_end - x_begin, row + x_begin);
      for (int64_t x = x_begin; x < x_end; ++x) row[x] = square_root(row[x]);
      fill(row, 0, x_begin, static_cast<Real>(__builtin_inf()));
      fill(row, x_end, width, static_cast<Real>(__builtin_inf()));
    }
  }
}

// The working memory of one thread in the backward pass.
template <typename Real>
struct Rows {
  explicit Rows(const PatchDistance& args)
      : ratios((band_rows + args.patch_size - 1) * (args.width + 2 * (args.patch_size - 1))),
        columns(args.width + 2 * (args.patch_size - 1)),
        weights(args.width + args.patch_size - 1),
        sums(band_rows * args.channels * args.width) {}

  Scratch<Real> ratios, columns, weights, sums;
};

template <typename T, typename Real>
void gradients_of_band(const PatchDistance& args, const Real* grad_distance, const Real* distance, bool of_source,
                       int64_t item, int64_t first_row, const Rows<Real>& rows, T* grad) {
  const int64_t height = args.height, width = args.width, taps = args.patch_size, side = 2 * args.radius + 1;
  const int64_t end_row = min(first_row + band_rows, height), area = height * width;
  const Frames<Real> frames(args, item);
  const Real* const self = of_source ? frames.source : frames.target;
  const Real* const other = of_source ? frames.target : frames.source;
  const int64_t h = frames.h, stride = frames.stride, ratio_stride = width + 4 * h;
  Sum<Real>* const sum = sum_over<Real>(taps);
  fill<Real>(rows.sums, 0, band_rows * args.channels * width, 0);

  for (int64_t index = 0; index < side * side; ++index) {
    const int64_t dy = args.dilation * (index / side - args.radius), dx = args.dilation * (index % side - args.radius);
    // Offsets from the pixel to the one in the other frame, and to the center q of the patches that contain it.
    const int64_t other_y = of_source ? -dy : dy, other_x = of_source ? -dx : dx;
    const int64_t center_y = of_source ? -dy : 0, center_x = of_source ? -dx : 0;
    const int64_t y_begin = max(first_row, -h - other_y), y_end = min(end_row, height + h - other_y);
    const int64_t x_begin = max<int64_t>(0, -h - other_x), x_end = min(width, width + h - other_x);
    if (y_begin >= y_end || x_begin >= x_end) continue;

    const int64_t volume = (item * side * side + index) * area;
    for (int64_t y = y_begin + center_y - h; y < y_end + center_y + h; ++y) {
      Real* const __restrict ratio = rows.ratios + (y - (y_begin + center_y - h)) * ratio_stride + 2 * h;
      if (y < 0 || y >= height) {
        fill<Real>(ratio, 0, width, 0);
        continue;
      }
      const Real* const g = grad_distance + volume + y * width;
      const Real* const d = distance + volume + y * width;
      for (int64_t x = 0; x < width; ++x) ratio[x] = d[x] > 0 && d[x] < Real(__builtin_inf()) ? g[x] / d[x] : Real(0);
    }
    for (int64_t y = y_begin; y < y_end; ++y) {
      sum(rows.ratios + (y - y_begin) * ratio_stride, ratio_stride, taps, ratio_stride, rows.columns);
      sum(rows.columns, 1, taps, stride, rows.weights);
      const Real* const weight = rows.weights + center_x + h;
      for (int64_t c = 0; c < args.channels; ++c) {
        const Real* const a = self + c * frames.plane + (y + h) * stride + h;
        const Real* const b = other + c * frames.plane + (y + other_y + h) * stride + h + other_x;
        Real* const __restrict to = rows.sums + ((y - first_row) * args.channels + c) * width;
        for (int64_t x = x_begin; x < x_end; ++x) to[x] += weight[x] * (a[x] - b[x]);
      }
    }
  }
  for (int64_t c = 0; c < args.channels; ++c) {
    for (int64_t y = first_row; y < end_row; ++y) {
      const Real* const from = rows.sums + ((y - first_row) * args.channels + c) * width;
      T* const to = grad + ((item * args.channels + c) * height + y) * width;
      for (int64_t x = 0; x < width; ++x) store(from[x], to + x);
    }
  }
}

template <typename T>
void pad(const PatchDistance& args) {
  const int64_t h = args.patch_size / 2, count = args.batch * args.channels, stride = args.width + 2 * h;
  Compute<T>* const padded = static_cast<Compute<T>*>(args.padded);
  pad(static_cast<const T*>(args.target), count, args.height, args.width, h, stride, padded);
  pad(static_cast<const T*>(args.source), count, args.height, args.width, h, stride,
      padded + count * (args.height + 2 * h) * stride);
}

int64_t bands_of(const PatchDistance& args) { return ceil_div(args.height, band_rows); }

void patch_distance(const PatchDistance& args, void* distance) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    pad<T>(args);
    const int64_t bands = bands_of(args), stride = args.width + args.patch_size - 1;
    parallel_for(args.batch * bands, 1, [&](int64_t begin, int64_t end) {
      const Scratch<Compute<T>> squares((band_rows + args.patch_size - 1) * stride), columns(stride);
      for (int64_t item = begin; item < end; ++item) {
        distances_of_band<Compute<T>>(args, item / bands, item % bands * band_rows, squares, columns,
                                      static_cast<Compute<T>*>(distance));
      }
    });
  });
}

void patch_distance_backward(const PatchDistance& args, const void* grad_distance, const void* distance, bool of_source,
                             void* grad) {
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using Real = Compute<T>;
    pad<T>(args);
    const int64_t bands = bands_of(args);
    parallel_for(args.batch * bands, 1, [&](int64_t begin, int64_t end) {
      const Rows<Real> rows(args);
      for (int64_t item = begin; item < end; ++item) {
        gradients_of_band(args, static_cast<const Real*>(grad_distance), static_cast<const Real*>(distance), of_source,
                          item / bands, item % bands * band_rows, rows, static_cast<T*>(grad));
      }
    });
  });
}

MFVIS_CPU_KERNEL(patch_distance_kernel, patch_distance)
MFVIS_CPU_KERNEL(patch_distance_backward_kernel, patch_distance_backward)

}  // namespace
}  // namespace mfvis
