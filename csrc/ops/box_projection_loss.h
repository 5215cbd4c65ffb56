#pragma once

#include <cstdint>

#include "../common/arithmetic.h"
#include "../common/box.h"
#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

struct BoxProjection {
  const void* logits;  // [N, T, H, W] of dtype
  Dtype dtype;
  const float* boxes;  // [N, T, 4]; null in the backward pass
  int64_t instances;
  int64_t frames;
  int64_t height;
  int64_t width;
  bool add;  // backward pass on the CPU: add to the gradient instead of writing it completely
};

// Results of the forward pass that the backward pass needs; it reads neither logits nor boxes. For each row, then for
// each column, the first position of its maximum (a column index for a row, a row index for a column) and the
// derivative of the loss with respect to that logit. Zeros for an instance without any box: written by the CPU kernel;
// elsewhere the tensors are zero before the call. The CUDA kernel of the backward pass skips positions outside of the
// frame, the operator refuses them on the CPU.
struct BoxMaxima {
  void* slope;        // [N, T, H + W] of the compute type of the logits
  int32_t* position;  // [N, T, H + W]
};

// Partition of a frame in the CUDA kernels: bands of rows, tiles of columns.
constexpr int64_t rows_of_band = 32;
constexpr int64_t bytes_of_tile = 512;

// Scratch memory of the CUDA kernels, null on the CPU. For each frame the maximum of every column in every band, then
// of every row in every tile, each with its first position.
struct BoxPeaks {
  void* value;        // [N, T, bands * W + H * tiles] of the compute type
  int32_t* position;  // same shape
  int32_t* finished;  // initialized to zero
  int64_t bands;
  int64_t tiles;
};

// loss: a scalar of the compute type of the logits; per_frame: float64 [N, T], scratch.
inline Kernel<void(const BoxProjection&, const BoxMaxima&, const BoxPeaks&, void* loss, double* per_frame)>
    box_projection_terms_kernel{"box_projection_loss"};

// grad_loss: a scalar of the compute type. grad_logits: shape of the logits; completely written on the CPU unless
// `add`. The CUDA kernel always adds. Logits and boxes are not read.
inline Kernel<void(const BoxProjection&, const BoxMaxima&, const void* grad_loss, void* grad_logits)>
    box_projection_terms_backward_kernel{"box_projection_loss"};

// The dice loss 1 - 2 I / D with I = sum of p inside the span, D = sum of p² + length of the span + 1e-5. Its
// derivative with respect to a p is 4 I p / D², minus 2 / D inside the span; the derivative of a sigmoid is p (1 - p).
struct Dice {
  double loss;
  double by_p_everywhere;
  double by_p_inside;

  static MFVIS_HOST_DEVICE Dice of(double inside, double squares, Span span) {
    const double denominator = squares + static_cast<double>(span.end - span.begin) + 1e-5;
    return {1 - 2 * inside / denominator, 4 * inside / (denominator * denominator), 2 / denominator};
  }
  MFVIS_HOST_DEVICE double by_logit(double p, bool is_inside) const {
    return (by_p_everywhere * p - (is_inside ? by_p_inside : 0)) * p * (1 - p);
  }
};

struct FrameSpans {
  Span x;
  Span y;
};

// The projections of the pixels inside a box: a box that holds no pixel center projects to nothing on both axes.
static MFVIS_HOST_DEVICE FrameSpans spans_of(const float* box, int64_t height, int64_t width) {
  const Span x = pixels_inside(box[0], box[2], width), y = pixels_inside(box[1], box[3], height);
  if (x.begin >= x.end || y.begin >= y.end) return {{0, 0}, {0, 0}};
  return {x, y};
}

static MFVIS_HOST_DEVICE bool ever_present(const BoxProjection& args, int64_t instance) {
  for (int64_t t = 0; t < args.frames; ++t) {
    if (box_is_present(args.boxes + (instance * args.frames + t) * 4)) return true;
  }
  return false;
}

}  // namespace mfvis
