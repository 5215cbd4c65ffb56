// Checks of the arguments that temporal_topk and tk_loss share: which frames are compared, and where a match may lie.
#pragma once

#include <optional>

#include "../common/check.h"
#include "../common/tensor.h"

namespace mfvis {

// pairs: int64 [P, 2] of frames 0..T-1; shift: int64 [B, P, 2]; both on the device of `anchor`. radius and dilation are
// limited such that a window index fits in int16 and a pixel index in int32. Values are checked on the CPU only: on
// other devices that would wait for the device.
void check_match_geometry(const Check& check, const Tensor& anchor, const char* anchor_name, const Tensor& pairs,
                          const std::optional<Tensor>& shift, int64_t videos, int64_t frames, int64_t height,
                          int64_t width, int64_t radius, int64_t dilation);

// video_index: int64 [N] of videos 0..B-1.
void check_video_index(const Check& check, const Tensor& mask_logits, const Tensor& video_index, int64_t videos);

}  // namespace mfvis
