#include "match_weight.h"

#include <cmath>
#include <limits>
#include <string>

#include "../common/operator.h"

namespace mfvis {
namespace {

// The affinity decreases with the distance, so a threshold on it is a limit on the distance: solved once, in double,
// and rounded down to the float with the same decision.
float distance_limit(double threshold, double sigma, bool gaussian) {
  constexpr float largest = std::numeric_limits<float>::max();
  if (threshold <= 0) return largest;
  if (threshold > 1) return -1;
  const double fall = -std::log(threshold);
  const double limit = gaussian ? sigma * std::sqrt(2 * fall) : 2 * sigma * fall;
  if (limit >= largest) return largest;
  const float rounded = static_cast<float>(limit);
  return rounded > limit ? std::nextafter(rounded, -1.0f) : rounded;
}

}  // namespace

Tensor match_weight(const Tensor& distance, double threshold, std::string affinity, double sigma, bool weighted) {
  const Check check("match_weight");
  check.dtype("distance", distance, {ScalarType::Float});
  check.that(std::isfinite(threshold), "threshold", "is " + std::to_string(threshold), "a finite number");
  check.that(affinity == "exponential" || affinity == "gaussian", "affinity", "is '" + affinity + "'",
             "'exponential' or 'gaussian'");
  check.that(std::isfinite(sigma) && sigma > 0, "sigma", "is " + std::to_string(sigma), "a positive number");

  const bool gaussian = affinity == "gaussian";
  Tensor weight = make_empty(distance, distance.sizes());
  const Tensor d = as_contiguous(distance);
  match_weight_kernel.on(d)({d.const_data_ptr<float>(), d.numel(), distance_limit(threshold, sigma, gaussian),
                             static_cast<float>(sigma), gaussian, weighted, weight.mutable_data_ptr<float>()});
  return weight;
}

MFVIS_OPERATOR(match_weight,
               "(Tensor distance, float threshold=0.05, str affinity=\"exponential\", float sigma=1.0, "
               "bool weighted=False) -> Tensor")

}  // namespace mfvis
