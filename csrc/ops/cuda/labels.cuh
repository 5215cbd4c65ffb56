// The disagreement of two pixels without an exponential for each pair. A pixel's logit x has two probabilities,
//
//   on = sigmoid(x), off = sigmoid(-x)                      both with full relative precision
//
// and with those of a and b, agreement g and disagreement probability d = 1 - g are sums of products:
//
//   g = on_a·on_b + off_a·off_b      loss  -log(g)
//   d = on_a·off_b + off_a·on_b      slope at a  -on_a·off_a·(on_b - off_b) / g
//
// The losses of several pairs have one logarithm, that of the product of their g, and their slopes one division by that
// product. Beyond logits of ±87 the probabilities are constant, and a product of up to 8 may become too small: then
// min_product refuses it, and the functions of math.h compute the pairs one by one from their logits.
#pragma once

#include "../../common/cuda.h"
#include "../../common/math.h"

namespace mfvis {
namespace {

constexpr float min_product = 1e-30f;

// 1 / x to one unit in the last place, for 1e-37 < |x| < 1e37: a division costs some ten instructions and a branch.
__device__ __forceinline__ float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y + y * (1.0f - x * y);
#else
  return 1.0f / x;
#endif
}
__device__ __forceinline__ double reciprocal(double x) { return 1.0 / x; }

// log(1 + x) for x >= 0. With 1 + x = m·2^e, m in [1, 2): e·log(2) + log(m).
__device__ __forceinline__ float log1p_of_positive(float x) {
  const uint32_t bits = bits_as<uint32_t>(1.0f + x);
  const float exponent = static_cast<float>(static_cast<int32_t>(bits >> 23) - 127);
  const float above_one = bits_as<float>((bits & 0x007fffffu) | 0x3f800000u) - 1.0f;
  return exponent * 0.693147182f + log1p_up_to_one(x < 1.0f ? x : above_one);
}
__device__ __forceinline__ double log1p_of_positive(double x) { return log1p(x); }

template <typename C>
struct alignas(2 * sizeof(C)) Labels {
  C on, off;
};

template <typename C>
__device__ __forceinline__ Labels<C> labels_of(C logit) {
  const C decay = exp_neg_abs(logit), larger = reciprocal(1 + decay), smaller = decay * larger;
  return logit > 0 ? Labels<C>{larger, smaller} : Labels<C>{smaller, larger};
}

// The same times 1 + exp(-|x|): enough where only ratios of products are needed.
template <typename C>
__device__ __forceinline__ Labels<C> unscaled_labels_of(C logit) {
  const C decay = exp_neg_abs(logit);
  return logit > 0 ? Labels<C>{1, decay} : Labels<C>{decay, 1};
}

template <typename C>
__device__ __forceinline__ C agreement(Labels<C> a, Labels<C> b) {
  return a.on * b.on + a.off * b.off;
}

// The summed loss of up to 8 pairs.
template <typename C>
struct LossOfPairs {
  C agree = 1, disagree = 0;  // the probability that all pairs agree, and its complement

  __device__ __forceinline__ void add(bool counts, Labels<C> a, Labels<C> b) {
    const C here = a.on * b.off + a.off * b.on;
    disagree += (counts ? here : C(0)) * (1 - disagree);
    agree *= counts ? agreement(a, b) : C(1);
  }
  __device__ __forceinline__ bool is_exact() const { return agree >= C(min_product); }
  __device__ __forceinline__ C value() const { return log1p_of_positive(disagree * reciprocal(agree)); }
};

// The summed slopes at `a` of up to 8 pairs: a fraction, so that there is one division.
template <typename C>
struct SlopeOfPairs {
  C numerator = 0, denominator = 1;

  __device__ __forceinline__ void add(bool counts, C weight, Labels<C> a, Labels<C> b) {
    const C agree = counts ? agreement(a, b) : C(1), slope = counts ? weight * (b.off - b.on) : C(0);
    numerator = numerator * agree + slope * denominator;
    denominator *= agree;
  }
  __device__ __forceinline__ bool is_exact() const { return denominator >= C(min_product); }
  __device__ __forceinline__ C value(Labels<C> a) const { return a.on * a.off * numerator * reciprocal(denominator); }
};

// The loss of one pair, from unscaled labels. Where their product is too small, from the logits.
template <typename C>
__device__ __forceinline__ C loss_of_pair(C logit_a, Labels<C> a, C logit_b) {
  const Labels<C> b = unscaled_labels_of(logit_b);
  const C agree = agreement(a, b);
  if (agree >= C(min_product)) return log1p_of_positive((a.on * b.off + a.off * b.on) * reciprocal(agree));
  return disagreement(logit_a, exp_neg_abs(logit_a), logit_b, exp_neg_abs(logit_b));
}

// Its slope at `a`, likewise. common = on·off / (on + off) of the unscaled labels of `a`.
template <typename C>
__device__ __forceinline__ C slope_of_pair(C logit_a, Labels<C> a, C common, C logit_b) {
  const Labels<C> b = unscaled_labels_of(logit_b);
  const C agree = agreement(a, b);
  if (agree >= C(min_product)) return common * (b.off - b.on) * reciprocal(agree);
  C slope_a, slope_b;
  disagreement_slopes(logit_a, exp_neg_abs(logit_a), logit_b, exp_neg_abs(logit_b), C(1), slope_a, slope_b);
  return slope_a;
}

}  // namespace
}  // namespace mfvis
