#include "temporal_topk.h"

#include "../common/operator.h"
#include "match_geometry.h"

namespace mfvis {

std::tuple<Tensor, Tensor> temporal_topk(const Tensor& frames, const Tensor& pairs, int64_t patch_size, int64_t radius,
                                         int64_t dilation, int64_t k, std::optional<Tensor> shift) {
  const Check check("temporal_topk");
  check.sizes("frames", frames, {-1, -1, -1, -1, -1}, "[B, T, C, H, W]");
  check.floating("frames", frames);
  check.that(frames.size(2) > 0, "frames", "has shape " + shape_of(frames), "a channel or more");
  check.that(patch_size > 0 && patch_size % 2 == 1 && patch_size < 256, "patch_size",
             "is " + std::to_string(patch_size), "an odd number, 1 to 255");
  check.that(k > 0 && k <= 32761, "k", "is " + std::to_string(k), "1 to 32761");
  const int64_t videos = frames.size(0), height = frames.size(3), width = frames.size(4);
  const Tensor own_pairs = as_private(pairs);
  check_match_geometry(check, frames, "frames", own_pairs, shift, videos, frames.size(1), height, width, radius,
                       dilation);

  const std::initializer_list<int64_t> shape{videos, pairs.size(0), k, height, width};
  Tensor distance = make_empty(frames, shape, ScalarType::Float);
  Tensor offset = make_empty(frames, shape, ScalarType::Short);
  if (distance.numel() == 0) return {distance, offset};
  const Tensor tight_frames = as_contiguous(frames);
  const std::optional<Tensor> own_shift = as_private(shift);
  std::optional<Tensor> padded;  // Not needed by the CUDA kernels.
  if (!runs_cuda_kernels(frames)) {
    const int64_t padded_height = height + patch_size - 1, stride = temporal_topk_stride(width, patch_size);
    padded = make_empty(frames, {videos, frames.size(1), frames.size(2), padded_height, stride}, ScalarType::Float);
  }
  temporal_topk_kernel.on(frames)({tight_frames.const_data_ptr(), dtype_of(frames), own_pairs.const_data_ptr<int64_t>(),
                                   own_shift ? own_shift->const_data_ptr<int64_t>() : nullptr, videos, frames.size(1),
                                   frames.size(2), height, width, pairs.size(0), patch_size, radius, dilation, k,
                                   padded ? padded->mutable_data_ptr<float>() : nullptr,
                                   distance.mutable_data_ptr<float>(), offset.mutable_data_ptr<int16_t>()});
  return {distance, offset};
}

MFVIS_OPERATOR(temporal_topk,
               "(Tensor frames, Tensor pairs, int patch_size=3, int radius=5, int dilation=1, int k=5, "
               "Tensor? shift=None) -> (Tensor, Tensor)")

}  // namespace mfvis
