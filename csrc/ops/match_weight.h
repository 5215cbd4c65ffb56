#pragma once

#include <cstdint>

#include "../common/kernel.h"

namespace mfvis {

struct MatchWeight {
  const float* distance;
  int64_t count;
  float limit;  // the largest distance that counts, finite: affinity >= threshold iff distance <= limit
  float sigma;
  bool gaussian;
  bool weighted;
  float* weight;
};

inline Kernel<void(const MatchWeight&)> match_weight_kernel{"match_weight"};

}  // namespace mfvis
