// Finds the matches of which a pixel is the source, for its gradient, which is gathered. Every match sets a bit at its
// source, so that the order of the threads does not matter:
//
//   chosen    [B, P, words <= 8, H·W]  masks of 32 bits     bit c of a pixel: a target pixel matched it as candidate c
//
// The pixel and c give the target pixel, whose K matches tell which of them it is. Windows of more than 256 candidates,
// beyond radius 7, have one bit for several neighboring ones.
#pragma once

#include "tk_loss_matches.cuh"

namespace mfvis {
namespace {

// One thread per target pixel.
__global__ void __launch_bounds__(threads) mark_sources(TkLoss args) {
  const int64_t area = args.height * args.width, lists = args.videos * args.pair_count;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < lists * area; i += step) {
    const int64_t list = i / area;
    each_match(args, list, static_cast<int32_t>(i - list * area), 0, args.matches,
               [&](int32_t candidate, int32_t source, float) {
                 const int32_t bit = candidate / args.candidates_per_bit;
                 uint32_t* const masks = args.chosen + list * args.chosen_words * area;
                 atomicOr(masks + bit / 32 * area + source, 1u << bit % 32);
               });
  }
}

// Calls visit(target, weight) for each match of which a pixel is the source, in the order of the candidates.
template <typename Visit>
__device__ __forceinline__ void each_match_of_source(const TkLoss& args, int64_t list, int32_t pixel,
                                                     const Visit& visit) {
  const SearchWindow window(args.shift ? args.shift + 2 * list : nullptr, args.height, args.width, args.radius,
                            args.dilation);
  const int32_t y = pixel / window.width, x = pixel - y * window.width;
  const int64_t area = args.height * args.width;
  const int16_t* const offset = args.offset + list * args.matches * area;
  const float* const weights = args.weight + list * args.matches * area;
  const uint32_t end = static_cast<uint32_t>(args.matches * area);
  for (int32_t word = 0; word < args.chosen_words; ++word) {
    for (uint32_t bits = args.chosen[(list * args.chosen_words + word) * area + pixel]; bits != 0; bits &= bits - 1) {
      const int32_t first = (32 * word + __ffs(static_cast<int>(bits)) - 1) * args.candidates_per_bit;
      for (int32_t candidate = first; candidate < first + args.candidates_per_bit; ++candidate) {
        const int32_t target = window.target(candidate, y, x);
        if (target < 0) continue;
        for (uint32_t at = static_cast<uint32_t>(target); at < end; at += static_cast<uint32_t>(area)) {
          if (offset[at] != candidate) continue;
          const float weight = weights[at];
          if (weight != 0) visit(target, weight);
        }
      }
    }
  }
}

}  // namespace
}  // namespace mfvis
