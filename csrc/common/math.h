// The functions of logits that the losses need, in forms that vectorize and keep their precision in the tails.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace mfvis {

#if defined(__CUDACC__)
static MFVIS_HOST_DEVICE double exp_of_negative(double x) { return exp(x); }
static MFVIS_HOST_DEVICE double log1p_up_to_one(double x) { return log1p(x); }
#else
static MFVIS_HOST_DEVICE double exp_of_negative(double x) { return __builtin_exp(x); }
static MFVIS_HOST_DEVICE double log1p_up_to_one(double x) { return __builtin_log1p(x); }
#endif

// exp(x) for x <= 0, relative error 2e-7: 2^n · exp(r) with |r| <= ln(2) / 2. Constant (1.6e-38) below -87.
static MFVIS_HOST_DEVICE float exp_of_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + 0x1.8p23f;  // the low bits of this sum are the nearest integer n
  const float n = shifted - 0x1.8p23f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln(2) as a sum whose first part is exact
  float p = 1.39012842e-3f;
  p = p * r + 8.36314038e-3f;
  p = p * r + 4.16668534e-2f;
  p = p * r + 1.66665773e-1f;
  p = p * r + 4.99999996e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * bits_as<float>((bits_as<uint32_t>(shifted) + 127u) << 23);
}

// The same, but 0 where the result would be denormal.
static MFVIS_HOST_DEVICE float exp_of_negative_or_zero(float x) { return x < -87.0f ? 0.0f : exp_of_negative(x); }
static MFVIS_HOST_DEVICE double exp_of_negative_or_zero(double x) { return exp_of_negative(x); }

// log(1 + x) for 0 <= x <= 1, minimax polynomial, relative error 2e-7.
static MFVIS_HOST_DEVICE float log1p_up_to_one(float x) {
  float p = 5.23268777e-3f;
  p = p * x - 2.95052147e-2f;
  p = p * x + 7.82259093e-2f;
  p = p * x - 1.36632422e-1f;
  p = p * x + 1.91060051e-1f;
  p = p * x - 2.48429818e-1f;
  p = p * x + 3.33190968e-1f;
  p = p * x - 4.99994931e-1f;
  p = p * x + 9.99999970e-1f;
  return p * x;
}

template <typename T>
static MFVIS_HOST_DEVICE T magnitude(T x) {
  return x < 0 ? -x : x;
}

// exp(-|x|). The functions below need nothing else of a logit besides its value.
template <typename T>
static MFVIS_HOST_DEVICE T exp_neg_abs(T x) {
  return exp_of_negative(-magnitude(x));
}

// [x > 0] - sigmoid(x): small far from 0, with the sign of x.
template <typename T>
static MFVIS_HOST_DEVICE T sigmoid_tail(T x) {
  const T tail = exp_neg_abs(x) / (1 + exp_neg_abs(x));
  return x > 0 ? tail : -tail;
}

template <typename T>
static MFVIS_HOST_DEVICE T sigmoid(T x) {
  return T(x > 0) - sigmoid_tail(x);
}

// softplus(a) + softplus(b) - softplus(a + b). With A, B, S = exp(-|a|), exp(-|b|), exp(-|a + b|):
//   same signs       log((1 + A)(1 + B) / (1 + S)) = log1p((A + B) / (1 + S)), because S = AB
//   opposite signs   the same logarithm + min(|a|, |b|)
// One division and one logarithm. Nothing overflows, and small results keep their precision.
template <typename T>
static MFVIS_HOST_DEVICE T disagreement(T a, T exp_a, T b, T exp_b) {
  const T size_a = magnitude(a), size_b = magnitude(b);
  const bool opposed = (a > 0) != (b > 0);
  const T product = (1 + exp_a) * (1 + exp_b), divisor = 1 + exp_neg_abs(a + b);
  const T excess = opposed ? product - divisor : exp_a + exp_b;
  const T logarithm = log1p_up_to_one(magnitude(excess) / (product < divisor ? product : divisor));
  const T smaller = size_a < size_b ? size_a : size_b;
  return (opposed ? smaller : T(0)) + (excess < 0 ? -logarithm : logarithm);
}

// Its derivatives, sigmoid(a) - sigmoid(a + b) and sigmoid(b) - sigmoid(a + b), without cancellation:
//   same signs       -sign(a) A (1 - B) / ((1 + A)(1 + S))
//   opposite signs    sign(a) F (1 - B) / ((1 + A)(1 + S)),  F = 1 if |a| <= |b| else S
template <typename T>
static MFVIS_HOST_DEVICE void disagreement_slopes(T a, T exp_a, T b, T exp_b, T scale, T& slope_a, T& slope_b) {
  const bool opposed = (a > 0) != (b > 0), a_is_smaller = magnitude(a) <= magnitude(b);
  const T exp_sum = exp_neg_abs(a + b);
  const T common = scale / ((1 + exp_a) * (1 + exp_b) * (1 + exp_sum));
  const T factor_a = opposed ? (a_is_smaller ? T(1) : exp_sum) : -exp_a;
  const T factor_b = opposed ? (a_is_smaller ? exp_sum : T(1)) : -exp_b;
  slope_a = (a > 0 ? common : -common) * factor_a * ((1 - exp_b) * (1 + exp_b));
  slope_b = (b > 0 ? common : -common) * factor_b * ((1 - exp_a) * (1 + exp_a));
}

}  // namespace mfvis
