#include "match_geometry.h"

namespace mfvis {
namespace {

using torch::headeronly::ScalarType;

void check_values(const Check& check, const char* name, const Tensor& indices, int64_t bound, const char* what) {
  if (!indices.is_cpu()) return;
  const Tensor tight = as_contiguous(indices);
  const int64_t* values = tight.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < tight.numel(); ++i) {
    check.that(values[i] >= 0 && values[i] < bound, name, "contains " + std::to_string(values[i]),
               std::string(what) + ", 0 to " + std::to_string(bound - 1));
  }
}

}  // namespace

void check_match_geometry(const Check& check, const Tensor& anchor, const char* anchor_name, const Tensor& pairs,
                          const std::optional<Tensor>& shift, int64_t videos, int64_t frames, int64_t height,
                          int64_t width, int64_t radius, int64_t dilation) {
  check.sizes("pairs", pairs, {-1, 2}, "[P, 2]");
  check.dtype("pairs", pairs, {ScalarType::Long});
  check.same_device("pairs", pairs, anchor_name, anchor);
  check.that(frames > 0 || pairs.size(0) == 0, "pairs", "has " + std::to_string(pairs.size(0)) + " pairs",
             "none where the clip has no frame");
  check_values(check, "pairs", pairs, frames, "frames of the clip");
  if (shift) {
    check.sizes("shift", *shift, {videos, pairs.size(0), 2}, "[B, P, 2]");
    check.dtype("shift", *shift, {ScalarType::Long});
    check.same_device("shift", *shift, anchor_name, anchor);
  }
  check.that(radius >= 0 && radius <= 90, "radius", "is " + std::to_string(radius),
             "0 to 90: an offset is an int16 index into the (2·radius + 1)² candidates");
  check.that(dilation >= 1 && dilation <= 16384, "dilation", "is " + std::to_string(dilation), "1 to 16384");
  check.that(height <= INT32_MAX / (width > 0 ? width : 1), anchor_name,
             "has " + std::to_string(height) + " x " + std::to_string(width) + " pixels per frame", "fewer than 2^31");
}

void check_video_index(const Check& check, const Tensor& mask_logits, const Tensor& video_index, int64_t videos) {
  check.sizes("video_index", video_index, {mask_logits.size(0)}, "[N]");
  check.dtype("video_index", video_index, {ScalarType::Long});
  check.same_device("video_index", video_index, "mask_logits", mask_logits);
  check.that(videos > 0 || mask_logits.size(0) == 0, "video_index",
             "has " + std::to_string(mask_logits.size(0)) + " instances", "none where the batch has no video");
  check_values(check, "video_index", video_index, videos, "videos of the batch");
}

}  // namespace mfvis
