// The few functions of a logit that the losses need, in forms that vectorise and lose no digits in the tails.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace mfvis {

static MFVIS_HOST_DEVICE double exp_of_negative(double x) { return __builtin_exp(x); }
static MFVIS_HOST_DEVICE double log1p_up_to_one(double x) { return __builtin_log1p(x); }

// exp(x) for x <= 0, relative error 2e-7: 2^n · exp(r) with |r| <= ln(2) / 2. Below -87 it stays at 1.6e-38.
static MFVIS_HOST_DEVICE float exp_of_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + 0x1.8p23f;  // the low bits of this sum are the nearest integer n
  const float n = shifted - 0x1.8p23f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln(2) in two parts, the first one exact
  float p = 1.39012842e-3f;
  p = p * r + 8.36314038e-3f;
  p = p * r + 4.16668534e-2f;
  p = p * r + 1.66665773e-1f;
  p = p * r + 4.99999996e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * bits_as<float>((bits_as<uint32_t>(shifted) + 127u) << 23);
}

// log(1 + x) for 0 <= x <= 1, relative error 2e-7: minimax polynomial.
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

// softplus(x) - max(x, 0) = log(1 + exp(-|x|)).
template <typename T>
static MFVIS_HOST_DEVICE T softplus_tail(T x) {
  return log1p_up_to_one(exp_of_negative(-magnitude(x)));
}

// [x > 0] - sigmoid(x): positive for positive x, negative else, and small far from 0.
template <typename T>
static MFVIS_HOST_DEVICE T sigmoid_tail(T x) {
  const T e = exp_of_negative(-magnitude(x));
  const T tail = e / (1 + e);
  return x > 0 ? tail : -tail;
}

// softplus(a) + softplus(b) - softplus(a + b) from the tails of a and b. The maxima of the three softplus cancel
// exactly but for min(|a|, |b|) where the signs differ.
template <typename T>
static MFVIS_HOST_DEVICE T disagreement(T a, T tail_a, T b, T tail_b) {
  const T size_a = magnitude(a), size_b = magnitude(b);
  const T smaller = size_a < size_b ? size_a : size_b;
  const T opposed = (a > 0) != (b > 0) ? smaller : T(0);
  return opposed + (tail_a + tail_b - softplus_tail(a + b));
}

// Its derivative in a, sigmoid(a) - sigmoid(a + b), from the sigmoid tails of a and of the sum.
template <typename T>
static MFVIS_HOST_DEVICE T disagreement_slope(T a, T tail_a, T sum, T tail_sum) {
  return (T(a > 0) - T(sum > 0)) + (tail_sum - tail_a);
}

}  // namespace mfvis
