// All instances of all decoder layers share the matches. So a block takes a tile of 256 pixels of one pair of frames,
// reads its matches once, and processes the instances 32 at a time, or a part of them if tiles would not fill the
// multiprocessors:
//
//   forward   block = tile x pair x instances
//     matches [K <= 16][256] source, weight        shared memory, only those with a weight
//     sums    [32 instances][8 warps] loss, weight shared memory, then
//   partial   [N, P, tiles] loss, weight           summed in order by a second launch
//
// The gradient is gathered, not scattered: a pixel sums over the matches of which it is the target and those of which
// it is the source (tk_loss_sources.cuh).
//
//   backward  block = tile x frame x instances
//     links   [12][256] other pixel, weight, role, which of 32 instances count     shared memory, 48 KiB; a pixel that
//                                                                                  has more looks them up every time
//
// All sums have a fixed order: no atomic additions of floats, forward or backward.
//
// Floor: the counted pixels' logits once per pass, the gradient once, and K·6 bytes of matches per pixel and 32
// instances; some 50 operations per match and instance.
#include "labels.cuh"
#include "tk_loss_sources.cuh"

namespace mfvis {
namespace {

constexpr int slab = 16;        // matches of a pixel at a time
constexpr int links_kept = 12;  // links of a pixel in shared memory

template <typename C>
struct ForwardTile {
  int32_t source[slab][threads];
  float weight[slab][threads];
  C loss[instances_per_mask][warps];
  C total[instances_per_mask][warps];
};

// A block's tile, with consecutive blocks from the middle of a frame to its top and bottom. Most objects are in the
// middle, and blocks with many instances should not be the last ones to start.
__device__ __forceinline__ int32_t from_the_middle(int32_t i, int32_t tiles) {
  return tiles / 2 + (i % 2 == 0 ? i / 2 : -(i + 1) / 2);
}

// item = ((part · tiles + tile) · B + video) · P + pair.
template <typename T>
__global__ void __launch_bounds__(threads, sizeof(T) < 8 ? 3 : 2) sum_tiles(TkLoss args, int32_t parts) {
  using C = Compute<T>;
  ForwardTile<C>& shared = *shared_memory<ForwardTile<C>>();
  // 32 bits where they suffice: there are no registers left.
  const int32_t area = static_cast<int32_t>(args.height * args.width);
  const int32_t tiles = static_cast<int32_t>(ceil_div(area, threads));
  const int32_t pairs = static_cast<int32_t>(args.pair_count), lists = static_cast<int32_t>(args.videos) * pairs;
  const int own = threadIdx.x, lane = own % 32, warp = own / 32;
  for (int64_t item = blockIdx.x; item < int64_t{parts} * lists * tiles; item += gridDim.x) {
    const int32_t list = static_cast<int32_t>(item % lists), video = list / pairs, pair = list - video * pairs;
    const int32_t tile = from_the_middle(static_cast<int32_t>(item / lists % tiles), tiles);
    const int32_t part = static_cast<int32_t>(item / lists / tiles);
    const int64_t target_frame = args.pairs[2 * pair], source_frame = args.pairs[2 * pair + 1];
    const int32_t pixel = tile * threads + own;
    const bool exists = pixel < area && is_frame(args, target_frame) && is_frame(args, source_frame);
    int found = -1;  // Not searched yet. Each thread only reads its own column: no barrier.
    C weights = 0;   // the sum of theirs
    for (int32_t mask_index = part; mask_index < masks_of(args.instances); mask_index += parts) {
      const uint32_t mine = instances_of(args.video_index, args.instances, args.videos, video, mask_index);
      if (mine == 0) continue;
      const uint32_t counted = exists ? args.counted[int64_t{mask_index} * area + pixel] & mine : 0;
      static_assert(threads == instances_per_mask * warps, "a thread for each");
      shared.loss[own / warps][own % warps] = shared.total[own / warps][own % warps] = 0;
      __syncthreads();
      for (int64_t first = 0; first < args.matches; first += slab) {
        if (found < 0 || args.matches > slab) {
          found = 0;
          weights = 0;
          const int64_t end = min(first + slab, args.matches);
          const auto keep = [&](int32_t, int32_t source, float weight) {
            shared.source[found][own] = source;
            shared.weight[found][own] = weight;
            weights += static_cast<C>(weight);
            ++found;
          };
          if (exists) each_match(args, list, pixel, first, end, keep);
        }
        const uint32_t counts = found > 0 ? counted : 0;
        for (uint32_t left = any_over_warp(counts); left != 0; left &= left - 1) {
          const int i = __ffs(static_cast<int>(left)) - 1;
          C loss = 0, total = 0;
          if ((counts >> i & 1u) != 0) {
            const T* const logits = static_cast<const T*>(args.logits) +
                                    (int64_t{mask_index} * instances_per_mask + i) * args.frames * area;
            const T* const sources = logits + source_frame * area;
            const C here = load(logits[target_frame * area + pixel]);
            const Labels<C> labels = unscaled_labels_of(here);
            for (int j = 0; j < found; ++j) {
              const C there = load(sources[shared.source[j][own]]);
              loss += static_cast<C>(shared.weight[j][own]) * loss_of_pair(here, labels, there);
            }
            total = weights;
          }
          const C sum = sum_two_over_warp(loss, total);
          if (lane == 0) shared.loss[i][warp] += sum;
          if (lane == 16) shared.total[i][warp] += sum;
        }
      }
      __syncthreads();
      if (own < instances_per_mask && (mine >> own & 1u) != 0) {
        C loss = 0, total = 0;
        for (int w = 0; w < warps; ++w) {
          loss += shared.loss[own][w];
          total += shared.total[own][w];
        }
        C* const to = static_cast<C*>(args.partial) +
                      (((int64_t{mask_index} * instances_per_mask + own) * pairs + pair) * tiles + tile) * 2;
        to[0] = loss;
        to[1] = total;
      }
      __syncthreads();
    }
  }
}

// A match, as seen from one of its two pixels.
struct alignas(16) Link {
  int32_t other;  // the pixel at the other end, within all frames of the clip
  float weight;
  int32_t role;     // 2 · pair, plus 1 if the other pixel is the target
  uint32_t counts;  // bit i: the match counts for instance i of the current mask
};

// Calls visit(link) for each link of a pixel, in a fixed order. `counts` is not known yet.
template <typename Visit>
__device__ __forceinline__ void each_link(const TkLoss& args, int32_t video, int32_t frame, int32_t pixel,
                                          const Visit& visit) {
  const int32_t area = static_cast<int32_t>(args.height * args.width);
  for (int32_t pair = 0; pair < args.pair_count; ++pair) {
    const int64_t target = args.pairs[2 * pair], source = args.pairs[2 * pair + 1];
    const int64_t list = video * args.pair_count + pair;
    const int32_t role = 2 * pair;
    if (target == frame && is_frame(args, source)) {
      const int32_t first = static_cast<int32_t>(source * area);
      each_match(args, list, pixel, 0, args.matches,
                 [&](int32_t, int32_t other, float weight) { visit(Link{first + other, weight, role, 0}); });
    }
    if (source == frame && is_frame(args, target)) {
      const int32_t first = static_cast<int32_t>(target * area);
      each_match_of_source(args, list, pixel,
                           [&](int32_t other, float weight) { visit(Link{first + other, weight, role + 1, 0}); });
    }
  }
}

// Blocks per multiprocessor: before Hopper, most have shared memory for only two.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int gather_blocks = 2;
#else
constexpr int gather_blocks = 3;
#endif

// item = ((part · tiles + tile) · B + video) · T + frame: a thread writes one pixel of the video's instances.
template <typename T>
__global__ void __launch_bounds__(threads, sizeof(T) < 8 ? gather_blocks : 1)
    gather_gradients(TkLoss args, int32_t parts, const Compute<T>* grad_loss_sum, T* grad_logits) {
  using C = Compute<T>;
  Link(*const links)[threads] = shared_memory<Link[threads]>();  // Each thread only reads its own column.
  const int own = threadIdx.x;
  // 32 bits where they suffice: one register more would reduce the blocks per multiprocessor by a third.
  const int32_t area = static_cast<int32_t>(args.height * args.width);
  const int32_t clip = static_cast<int32_t>(args.frames) * area, tiles = static_cast<int32_t>(ceil_div(area, threads));
  for (int64_t item = blockIdx.x; item < parts * args.videos * args.frames * tiles; item += gridDim.x) {
    const int32_t frame = static_cast<int32_t>(item % args.frames);
    const int32_t video = static_cast<int32_t>(item / args.frames % args.videos);
    const int32_t tile = from_the_middle(static_cast<int32_t>(item / args.frames / args.videos % tiles), tiles);
    const int64_t at = int64_t{tile} * threads + own;
    const int32_t part = static_cast<int32_t>(item / args.frames / args.videos / tiles);
    const int32_t pixel = static_cast<int32_t>(at);
    const bool exists = at < area;
    const auto each = [&](const auto& visit) { each_link(args, video, frame, pixel, visit); };
    int found = 0;
    const auto keep = [&](const Link& link) {
      if (found < links_kept) links[found][own] = link;
      ++found;
    };
    if (exists) each(keep);
    const int kept = min(found, links_kept);
    for (int32_t mask_index = part; mask_index < masks_of(args.instances); mask_index += parts) {
      const uint32_t mine = instances_of(args.video_index, args.instances, args.videos, video, mask_index);
      if (mine == 0) continue;
      const uint32_t* const counted = args.counted + int64_t{mask_index} * area;
      const auto counts_of = [&](const Link& link) {
        const bool is_target = link.role % 2 == 0;
        return counted[is_target ? pixel : link.other - static_cast<int32_t>(args.pairs[link.role - 1]) * area] & mine;
      };
      uint32_t any = found > kept ? mine : 0;
      for (int j = 0; j < kept; ++j) any |= links[j][own].counts = counts_of(links[j][own]);
      const uint32_t touched = any_over_warp(any);
      const int64_t first = int64_t{mask_index} * instances_per_mask * clip;
      const auto write = [&](int i, C gradient) {
        store(gradient, grad_logits + (first + frame * area + pixel + int64_t{i} * clip));
      };
      for (uint32_t left = exists ? mine & ~touched : 0; left != 0; left &= left - 1) {
        write(__ffs(static_cast<int>(left)) - 1, 0);
      }
      for (uint32_t left = exists ? touched : 0; left != 0; left &= left - 1) {
        const int i = __ffs(static_cast<int>(left)) - 1;
        C gradient = 0;
        if ((any >> i & 1u) != 0) {
          const int64_t n = int64_t{mask_index} * instances_per_mask + i;
          const T* const logits = static_cast<const T*>(args.logits) + (first + int64_t{i} * clip);
          const C* const scales = grad_loss_sum + n * args.pair_count;
          const C here = load(logits[frame * area + pixel]);
          const Labels<C> labels = unscaled_labels_of(here);
          const C common = labels.on * labels.off * reciprocal(labels.on + labels.off);
          const auto add = [&](const Link& link, uint32_t counts) {
            if ((counts >> i & 1u) == 0) return;
            const C there = load(logits[link.other]);
            const C scale = scales[link.role / 2] * static_cast<C>(link.weight);
            gradient += scale * slope_of_pair(here, labels, common, there);
          };
          for (int j = 0; j < kept; ++j) add(links[j][own], links[j][own].counts);
          if (found > kept) {
            int j = 0;
            each([&](const Link& link) {
              if (j++ >= kept) add(link, counts_of(link));
            });
          }
        }
        write(i, gradient);
      }
    }
  }
}

void tk_loss_terms(const TkLoss& args, void* loss_sum, void* weight_sum) {
  constexpr const char* op = "tk_loss_terms";
  const int64_t tiles = ceil_div(args.height * args.width, threads),
                masks = ceil_div(args.instances, instances_per_mask);
  launch(op, find_counted, grid_for(tiles * masks, 1), threads, sizeof(CountedTile), args);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    const int64_t blocks = args.videos * args.pair_count * tiles;
    const int32_t parts = parts_of(args, blocks);
    launch(op, sum_tiles<T>, grid_for(parts * blocks, 1), threads, sizeof(ForwardTile<C>), args, parts);
    launch(op, add_partial_sums<C>, grid_for(args.instances * args.pair_count, warps), threads, 0,
           static_cast<const C*>(args.partial), args.instances * args.pair_count, tiles, static_cast<C*>(loss_sum),
           static_cast<C*>(weight_sum));
  });
}

void tk_loss_terms_backward(const TkLoss& args, const void* grad_loss_sum, void* grad_logits) {
  constexpr const char* op = "tk_loss_terms_backward";
  const int64_t area = args.height * args.width, tiles = ceil_div(area, threads);
  launch(op, mark_sources, grid_for(args.videos * args.pair_count * area, threads), threads, 0, args);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t blocks = args.videos * args.frames * tiles;
    const int32_t parts = parts_of(args, blocks);
    launch(op, gather_gradients<T>, grid_for(parts * blocks, 1), threads, links_kept * threads * sizeof(Link), args,
           parts, static_cast<const Compute<T>*>(grad_loss_sum), static_cast<T*>(grad_logits));
  });
}

MFVIS_CUDA_KERNEL(tk_loss_terms_kernel, tk_loss_terms)
MFVIS_CUDA_KERNEL(tk_loss_terms_backward_kernel, tk_loss_terms_backward)

}  // namespace
}  // namespace mfvis
