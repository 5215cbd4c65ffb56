#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/kernel.h"

namespace mfvis {

// One feature map: rows [start, start + height * width) of the value tensor.
struct DeformLevel {
  int64_t height;
  int64_t width;
  int64_t start;
};

constexpr int64_t max_deform_levels = 16;

// Locations, weights and their gradients have the compute type of `dtype`.
struct MsDeformAttn {
  const void* value;  // [B, S, heads, D] of dtype
  Dtype dtype;
  const void* locations;  // [B, Q, heads, L, points, 2]: x, y in 0..1
  const void* weights;    // [B, Q, heads, L, points]; with `softmax`, its logits
  int64_t batch;
  int64_t pixels;
  int64_t heads;
  int64_t channels;
  int64_t queries;
  int64_t levels;
  int64_t points;
  bool softmax;  // over the samples of a query and head
  // The levels, by value if the bridge could read them, else in device memory, so that nothing waits for the device.
  DeformLevel level[max_deform_levels];
  const int64_t* shapes_on_device;  // [L, 2]: H, W; or null
  const int64_t* starts_on_device;  // [L]
};

// Accumulators of the gradient of the value in the CUDA kernels, null on the CPU. Either `sums` or `in_fixed` is null.
struct DeformSums {
  void* sums;         // [B, S, heads, D], zeros, of the compute type; grad_value itself if it has this type
  int64_t* in_fixed;  // repeatable alternative: sums of integers do not depend on their order
  uint64_t* largest;  // [2, batch], zeros; with in_fixed: bits of the largest |grad_output|, then |weights|. With
                      // softmax the weights are at most 1, and the second is set only if one is NaN.
};

// output: [B, Q, heads, D] of dtype.
inline Kernel<void(const MsDeformAttn&, void* output)> ms_deform_attn_kernel{"ms_deform_attn"};

// grad_output: as output. grad_value, grad_locations, grad_weights: shapes of the inputs, completely written.
inline Kernel<void(const MsDeformAttn&, const DeformSums&, const void* grad_output, void* grad_value,
                   void* grad_locations, void* grad_weights)>
    ms_deform_attn_backward_kernel{"ms_deform_attn"};

static MFVIS_HOST_DEVICE float floor_of(float x) { return __builtin_floorf(x); }
static MFVIS_HOST_DEVICE double floor_of(double x) { return __builtin_floor(x); }

// The position of a sample on one axis in pixels, between pixel floor_of(position) and the next one.
template <typename C>
static MFVIS_HOST_DEVICE C in_pixels(C location, int32_t size) {
  return location * static_cast<C>(size) - C(0.5);
}

// The pixel index of floor_of(in_pixels()). If that is far outside, or NaN, an index such that it and the next one are
// outside: -2 or size.
template <typename C>
static MFVIS_HOST_DEVICE int32_t pixel_of(C whole, int32_t size) {
  const C most = static_cast<C>(size), below = whole < most ? whole : most;
  return static_cast<int32_t>(below > C(-2) ? below : C(-2));
}

}  // namespace mfvis
