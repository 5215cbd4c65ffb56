// All instances of all decoder layers share the matches, so a block takes a tile of 256 pixels of one pair of frames,
// reads its matches once, and goes through the instances 32 at a time, or through a part of them if tiles alone would
// leave multiprocessors idle:
//
//   counted   [N / 32][H·W]  words of 32 bits      bit n of a pixel: it counts for instance n; 1/160 of the logits
//
//   forward   block = tile x pair x instances
//     matches [K <= 16][256] source, weight        shared memory, only those that weigh something
//     sums    [32 instances][8 warps] loss, weight shared memory, then
//   partial   [N, P, tiles] loss, weight           which a second launch adds up in order
//
// The gradient is gathered, not scattered: a pixel adds up what it is the target of, and what it is the source of. For
// the latter the matches of a pair are listed by source, once for all instances:
//
//   total     [B, P]         room that the lists of a pair have taken
//   count     [B, P, H·W]    how long the list of a source pixel is
//   end       [B, P, H·W]    where it ends, in
//   code      [B, P, K·H·W]  k·H·W + target pixel; then the target pixel alone
//   weight    [B, P, K·H·W]
//
//   backward  block = tile x frame x instances
//     links   [12][256] other pixel, weight, role, which of 32 instances count     shared memory, 48 KiB; a pixel that
//                                                                                  has more looks them up every time
//
// Which room a list gets, and in what order it is filled, depends on the order of the threads; but each list is sorted
// before it is read. So the sums are in the same order every time: no atomic addition of floats, forward or backward.
//
// Floor: the counted pixels' logits once per pass, the gradient once, and K·6 bytes of matches per pixel and 32
// instances; some 50 operations for each match of each instance.
#include "../../common/box.h"
#include "../../common/math.h"
#include "../tk_loss.h"
#include "instances.cuh"

namespace mfvis {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / 32;
constexpr int slab = 16;        // matches of a pixel at a time
constexpr int links_kept = 12;  // of a pixel, in shared memory
// With fewer, the instances are divided among more. On the emulator few are enough, so that small cases take both ways.
#ifdef MFVIS_EMULATED
constexpr int64_t enough_blocks = 3;
#else
constexpr int64_t enough_blocks = 1024;
#endif

// Where the parts of the scratch memory begin; tk_loss_scratch_bytes() has their sizes.
struct Layout {
  uint32_t* counted;  // [words, H·W]
  void* partial;      // [N, P, tiles, 2], forward; in its place the following, backward
  int32_t* total;     // [B, P]
  int32_t* count;     // [B, P, H·W]
  int32_t* end;       // [B, P, H·W]
  int32_t* code;      // [B, P, K·H·W]
  float* weight;      // [B, P, K·H·W]
};

Layout layout_of(const TkLoss& args) {
  const int64_t area = args.height * args.width, lists = args.videos * args.pair_count;
  Layout layout;
  layout.counted = static_cast<uint32_t*>(args.scratch);
  layout.partial = static_cast<char*>(args.scratch) + tk_loss_counted_bytes(args);
  layout.total = static_cast<int32_t*>(layout.partial);
  layout.count = layout.total + lists;
  layout.end = layout.count + lists * area;
  layout.code = layout.end + lists * area;
  layout.weight = reinterpret_cast<float*>(layout.code + lists * args.matches * area);
  return layout;
}

// counted: block = 256 pixels x one word of instances. A lane turns its instance's box into pixels, a warp those of one
// frame; then all look through the boxes that have a row in common with the block's pixels.
struct PixelBox {
  int32_t x1, x2, y1, y2;
};
struct CountedTile {
  PixelBox boxes[warps][word];
  uint32_t near[warps];  // bit i: boxes[..][i] has such a row
};

__global__ void __launch_bounds__(threads) find_counted(TkLoss args, Layout layout) {
  CountedTile& shared = *shared_memory<CountedTile>();
  const int64_t area = args.height * args.width, words = ceil_div(args.instances, word);
  const int64_t tiles = ceil_div(area, threads);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t item = blockIdx.x; item < tiles * words; item += gridDim.x) {
    const int64_t begin = item % tiles * threads, pixel = begin + threadIdx.x, n = item / tiles * word + lane;
    const int32_t width = static_cast<int32_t>(args.width), y = static_cast<int32_t>(pixel) / width;
    const int32_t x = static_cast<int32_t>(pixel) - y * width;
    const int64_t end = begin + threads < area ? begin + threads : area;
    const int32_t top = static_cast<int32_t>(begin) / width, bottom = static_cast<int32_t>(end - 1) / width;
    uint32_t bits = 0;
    for (int64_t first = 0; first < args.frames; first += warps) {
      bool near = false;
      if (n < args.instances && first + warp < args.frames) {
        const float* const box = args.boxes + (n * args.frames + first + warp) * 4;
        if (box_is_present(box)) {
          const Span rows = pixels_inside(box[1], box[3], args.height);
          const Span columns = pixels_inside(box[0], box[2], args.width);
          near = rows.begin <= bottom && rows.end > top;
          shared.boxes[warp][lane] = {static_cast<int32_t>(columns.begin), static_cast<int32_t>(columns.end),
                                      static_cast<int32_t>(rows.begin), static_cast<int32_t>(rows.end)};
        }
      }
      const uint32_t all_near = __ballot_sync(whole_warp, near);
      if (lane == 0) shared.near[warp] = all_near;
      __syncthreads();
      for (int frame = 0; frame < warps; ++frame) {
        for (uint32_t left = shared.near[frame]; left != 0; left &= left - 1) {
          const int i = __ffs(static_cast<int>(left)) - 1;
          const PixelBox box = shared.boxes[frame][i];
          bits |= static_cast<uint32_t>(x >= box.x1 && x < box.x2 && y >= box.y1 && y < box.y2) << i;
        }
      }
      __syncthreads();
    }
    if (pixel < area) layout.counted[item / tiles * area + pixel] = bits;
  }
}

// A pair that names no frame of the clip, which only the CPU looks for, has no matches.
__device__ bool is_frame(const TkLoss& args, int64_t named) { return named >= 0 && named < args.frames; }

// Where the matches of one pixel of a pair lie.
struct Window {
  __device__ Window(const TkLoss& args, int64_t list, int32_t pixel)
      : height(static_cast<int32_t>(args.height)),
        width(static_cast<int32_t>(args.width)),
        side(static_cast<int32_t>(2 * args.radius + 1)),
        dilation(static_cast<int32_t>(args.dilation)),
        per_side(1.0f / static_cast<float>(side)) {
    const int64_t* const shift = args.shift ? args.shift + 2 * list : nullptr;
    const int32_t reach = static_cast<int32_t>(args.radius) * dilation, row = pixel / width;
    first_y = row + (shift ? near(shift[0]) : 0) - reach;
    first_x = pixel - row * width + (shift ? near(shift[1]) : 0) - reach;
  }

  // The pixel of the source frame, or -1 if there is no match.
  __device__ int32_t source(int32_t candidate) const {
    const int32_t row = row_of(candidate, per_side);
    const int32_t y = first_y + dilation * row, x = first_x + dilation * (candidate - row * side);
    const bool exists = candidate >= 0 && candidate < side * side && y >= 0 && y < height && x >= 0 && x < width;
    return exists ? y * width + x : -1;
  }

  static __device__ int32_t near(int64_t shift) {
    constexpr int64_t far = 1 << 28;
    return static_cast<int32_t>(shift < -far ? -far : shift > far ? far : shift);
  }

  int32_t height, width, side, dilation;
  float per_side;
  int32_t first_y, first_x;
};

// visit(k, source, weight) for each match of a pixel that weighs something, k from `first` to `end`.
template <typename Visit>
__device__ __forceinline__ void each_match(const TkLoss& args, int64_t list, int32_t pixel, int64_t first, int64_t end,
                                           const Visit& visit) {
  const Window window(args, list, pixel);
  const int64_t area = args.height * args.width;
  int64_t at = (list * args.matches + first) * area + pixel;
  for (int64_t k = first; k < end; ++k, at += area) {
    const float weight = args.weight[at];
    const int32_t source = window.source(args.offset[at]);
    if (weight != 0 && source >= 0) visit(static_cast<int32_t>(k), source, weight);
  }
}

// One of the equal parts of the words of instances: [first, end).
struct Words {
  __device__ Words(const TkLoss& args, int64_t parts, int64_t part) {
    const int64_t words = ceil_div(args.instances, word);
    first = static_cast<int32_t>(part * words / parts);
    end = static_cast<int32_t>((part + 1) * words / parts);
  }
  int32_t first, end;
};

// Into how many the words are divided so that there are enough blocks, of which one part has `blocks`.
int64_t parts_of(const TkLoss& args, int64_t blocks) {
  const int64_t words = ceil_div(args.instances, word), wanted = ceil_div(enough_blocks, blocks > 0 ? blocks : 1);
  return wanted < words ? wanted : words;
}

template <typename C>
struct ForwardTile {
  int32_t source[slab][threads];
  float weight[slab][threads];
  C loss[word][warps];
  C total[word][warps];
};

// item = ((part · B + video) · P + pair) · tiles + tile.
template <typename T>
__global__ void __launch_bounds__(threads, 2) sum_tiles(TkLoss args, Layout layout, int64_t parts) {
  using C = Compute<T>;
  ForwardTile<C>& shared = *shared_memory<ForwardTile<C>>();
  const int64_t area = args.height * args.width, tiles = ceil_div(area, threads);
  const int64_t lists = args.videos * args.pair_count;
  const int own = threadIdx.x, lane = own % 32, warp = own / 32;
  for (int64_t item = blockIdx.x; item < parts * lists * tiles; item += gridDim.x) {
    const int64_t tile = item % tiles, list = item / tiles % lists;
    const int64_t video = list / args.pair_count, pair = list - video * args.pair_count;
    const Words words(args, parts, item / tiles / lists);
    const int64_t target_frame = args.pairs[2 * pair], source_frame = args.pairs[2 * pair + 1];
    const int32_t pixel = static_cast<int32_t>(tile * threads + own);
    const bool exists = pixel < area && is_frame(args, target_frame) && is_frame(args, source_frame);
    int found = -1;  // Not looked for yet. Each thread reads back its own column alone: no barrier.
    for (int32_t which_word = words.first; which_word < words.end; ++which_word) {
      const uint32_t mine = instances_of(args.video_index, args.instances, args.videos, video, which_word);
      if (mine == 0) continue;
      const uint32_t counted = exists ? layout.counted[which_word * area + pixel] & mine : 0;
      for (int i = own; i < word * warps; i += threads)
        shared.loss[i / warps][i % warps] = shared.total[i / warps][i % warps] = 0;
      __syncthreads();
      for (int64_t first = 0; first < args.matches; first += slab) {
        if (found < 0 || args.matches > slab) {
          found = 0;
          const int64_t end = first + slab < args.matches ? first + slab : args.matches;
          const auto keep = [&](int32_t, int32_t source, float weight) {
            shared.source[found][own] = source;
            shared.weight[found][own] = weight;
            ++found;
          };
          if (exists) each_match(args, list, pixel, first, end, keep);
        }
        for (uint32_t left = mine; left != 0; left &= left - 1) {
          const int i = __ffs(static_cast<int>(left)) - 1;
          const bool counts = (counted >> i & 1u) != 0 && found > 0;
          if (!__any_sync(whole_warp, counts)) continue;
          C loss = 0, total = 0;
          if (counts) {
            const T* const logits =
                static_cast<const T*>(args.logits) + (int64_t{which_word} * word + i) * args.frames * area;
            const T* const sources = logits + source_frame * area;
            const C a = load(logits[target_frame * area + pixel]), decay_a = decay(a);
            for (int j = 0; j < found; ++j) {
              const C b = load(sources[shared.source[j][own]]);
              loss += static_cast<C>(shared.weight[j][own]) * disagreement(a, decay_a, b, decay(b));
              total += static_cast<C>(shared.weight[j][own]);
            }
          }
          loss = sum_over_warp(loss);
          total = sum_over_warp(total);
          if (lane == 0) {
            shared.loss[i][warp] += loss;
            shared.total[i][warp] += total;
          }
        }
      }
      __syncthreads();
      if (own < word && (mine >> own & 1u) != 0) {
        C loss = 0, total = 0;
        for (int w = 0; w < warps; ++w) {
          loss += shared.loss[own][w];
          total += shared.total[own][w];
        }
        C* const to = static_cast<C*>(layout.partial) +
                      (((int64_t{which_word} * word + own) * args.pair_count + pair) * tiles + tile) * 2;
        to[0] = loss;
        to[1] = total;
      }
      __syncthreads();
    }
  }
}

__global__ void __launch_bounds__(threads) clear_counts(int32_t* counts, int64_t size) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < size; i += step) counts[i] = 0;
}

// visit(list, k, pixel, source) for every match that weighs something, a thread to a target pixel.
template <typename Visit>
__device__ void each_match_of_all(const TkLoss& args, const Visit& visit) {
  const int64_t area = args.height * args.width, lists = args.videos * args.pair_count;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < lists * area; i += step) {
    const int64_t list = i / area;
    const int32_t pixel = static_cast<int32_t>(i - list * area);
    each_match(args, list, pixel, 0, args.matches,
               [&](int32_t k, int32_t source, float) { visit(list, k, pixel, source); });
  }
}

__global__ void __launch_bounds__(threads) count_matches(TkLoss args, Layout layout) {
  const int64_t area = args.height * args.width;
  each_match_of_all(
      args, [&](int64_t list, int32_t, int32_t, int32_t source) { atomicAdd(layout.count + list * area + source, 1); });
}

// Every source pixel gets room for its list: a sum over the block, and one addition for the block's 256 pixels.
__global__ void __launch_bounds__(threads) make_room(TkLoss args, Layout layout) {
  int32_t* const sums = shared_memory<int32_t>();  // [8 warps], then where the block's room begins
  const int64_t area = args.height * args.width, tiles = ceil_div(area, threads);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t item = blockIdx.x; item < args.videos * args.pair_count * tiles; item += gridDim.x) {
    const int64_t list = item / tiles, pixel = item % tiles * threads + threadIdx.x;
    const int32_t size = pixel < area ? layout.count[list * area + pixel] : 0;
    int32_t before = size;  // and after the loop: the sizes up to this lane
    for (int step = 1; step < 32; step *= 2) {
      const int32_t other = __shfl_up_sync(whole_warp, before, step);
      before += lane >= step ? other : 0;
    }
    if (lane == 31) sums[warp] = before;
    __syncthreads();
    if (threadIdx.x == 0) {
      int32_t total = 0;
      for (int w = 0; w < warps; ++w) {
        const int32_t here = sums[w];
        sums[w] = total;
        total += here;
      }
      sums[warps] = atomicAdd(layout.total + list, total);
    }
    __syncthreads();
    // The begin; filling the list moves it to the end.
    if (pixel < area) layout.end[list * area + pixel] = sums[warps] + sums[warp] + before - size;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(threads) fill_lists(TkLoss args, Layout layout) {
  const int64_t area = args.height * args.width;
  each_match_of_all(args, [&](int64_t list, int32_t k, int32_t pixel, int32_t source) {
    const int32_t slot = atomicAdd(layout.end + list * area + source, 1);
    layout.code[list * args.matches * area + slot] = k * static_cast<int32_t>(area) + pixel;
  });
}

// One thread sorts one list, by insertion: most have as many entries as a pixel has matches. Then it keeps what the
// gradient needs of them.
__global__ void __launch_bounds__(threads) sort_lists(TkLoss args, Layout layout) {
  const int64_t area = args.height * args.width, count = args.videos * args.pair_count * area;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step) {
    const int64_t base = i / area * args.matches * area;
    const int32_t size = layout.count[i];
    int32_t* const code = layout.code + base + layout.end[i] - size;
    float* const weight = layout.weight + base + layout.end[i] - size;
    for (int32_t sorted = 1; sorted < size; ++sorted) {
      const int32_t moved = code[sorted];
      int32_t at = sorted;
      for (; at > 0 && code[at - 1] > moved; --at) code[at] = code[at - 1];
      code[at] = moved;
    }
    for (int32_t j = 0; j < size; ++j) {
      weight[j] = args.weight[base + code[j]];
      code[j] = static_cast<int32_t>(code[j] % area);
    }
  }
}

// A match of which a pixel is one end.
struct alignas(16) Link {
  int32_t other;  // the pixel at the other end
  float weight;
  int32_t role;     // 2 · pair, plus 1 if it is the other one that is the target
  uint32_t counts;  // bit i: for instance i of the present word
};

// visit(link) for each link of a pixel, always in the same order; what counts is not yet known.
template <typename Visit>
__device__ __forceinline__ void each_link(const TkLoss& args, const Layout& layout, int32_t video, int32_t frame,
                                          int32_t pixel, const Visit& visit) {
  const int64_t area = args.height * args.width;
  for (int64_t pair = 0; pair < args.pair_count; ++pair) {
    const int64_t target = args.pairs[2 * pair], source = args.pairs[2 * pair + 1];
    const int64_t list = video * args.pair_count + pair;
    const int32_t role = static_cast<int32_t>(2 * pair);
    if (target == frame && is_frame(args, source)) {
      each_match(args, list, pixel, 0, args.matches,
                 [&](int32_t, int32_t other, float weight) { visit(Link{other, weight, role, 0}); });
    }
    if (source == frame && is_frame(args, target)) {
      const int64_t base = list * args.matches * area;
      const int32_t end = layout.end[list * area + pixel];
      for (int32_t j = end - layout.count[list * area + pixel]; j < end; ++j) {
        visit(Link{layout.code[base + j], layout.weight[base + j], role + 1, 0});
      }
    }
  }
}

// Blocks at a time on a multiprocessor: before Hopper most have shared memory for no more than two.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int gather_blocks = 2;
#else
constexpr int gather_blocks = 3;
#endif

// item = ((part · B + video) · T + frame) · tiles + tile: a thread writes one pixel of the video's instances.
template <typename T>
__global__ void __launch_bounds__(threads, sizeof(T) < 8 ? gather_blocks : 2)
    gather_gradients(TkLoss args, Layout layout, int64_t parts, const Compute<T>* grad_loss_sum, T* grad_logits) {
  using C = Compute<T>;
  Link(*const links)[threads] = shared_memory<Link[threads]>();  // Each thread reads back its own column alone.
  const int own = threadIdx.x;
  // 32 bits where they suffice: with one register more a multiprocessor would hold a third fewer blocks.
  const int32_t area = static_cast<int32_t>(args.height * args.width);
  const int32_t tiles = static_cast<int32_t>(ceil_div(area, threads));
  for (int64_t item = blockIdx.x; item < parts * args.videos * args.frames * tiles; item += gridDim.x) {
    const int64_t at = item % tiles * threads + own;
    const int32_t frame = static_cast<int32_t>(item / tiles % args.frames);
    const int32_t video = static_cast<int32_t>(item / tiles / args.frames % args.videos);
    const Words words(args, parts, item / tiles / args.frames / args.videos);
    const int32_t pixel = static_cast<int32_t>(at);
    const bool exists = at < area;
    const auto each = [&](const auto& visit) { each_link(args, layout, video, frame, pixel, visit); };
    int found = 0;
    const auto keep = [&](const Link& link) {
      if (found < links_kept) links[found][own] = link;
      ++found;
    };
    if (exists) each(keep);
    const int kept = found < links_kept ? found : links_kept;
    for (int32_t which_word = words.first; which_word < words.end; ++which_word) {
      const uint32_t mine = instances_of(args.video_index, args.instances, args.videos, video, which_word);
      if (mine == 0 || !exists) continue;
      const uint32_t* const counted = layout.counted + int64_t{which_word} * area;
      const auto counts_of = [&](const Link& link) { return counted[link.role % 2 == 0 ? pixel : link.other] & mine; };
      uint32_t any = found > kept ? mine : 0;
      for (int j = 0; j < kept; ++j) any |= links[j][own].counts = counts_of(links[j][own]);
      for (uint32_t left = mine; left != 0; left &= left - 1) {
        const int i = __ffs(static_cast<int>(left)) - 1;
        const int64_t n = int64_t{which_word} * word + i;
        C gradient = 0;
        if ((any >> i & 1u) != 0) {
          const T* const logits = static_cast<const T*>(args.logits) + n * args.frames * area;
          const C here = load(logits[int64_t{frame} * area + pixel]), decay_here = decay(here);
          const auto add = [&](const Link& link, uint32_t counts) {
            if ((counts >> i & 1u) == 0) return;
            const C there = load(logits[args.pairs[link.role ^ 1] * area + link.other]);
            const C scale = grad_loss_sum[n * args.pair_count + link.role / 2] * static_cast<C>(link.weight);
            C slope_here, slope_there;
            disagreement_slopes(here, decay_here, there, decay(there), scale, slope_here, slope_there);
            gradient += slope_here;
          };
          for (int j = 0; j < kept; ++j) add(links[j][own], links[j][own].counts);
          if (found > kept) {
            int j = 0;
            each([&](const Link& link) {
              if (j++ >= kept) add(link, counts_of(link));
            });
          }
        }
        store(gradient, grad_logits + (n * args.frames + frame) * area + pixel);
      }
    }
  }
}

void tk_loss_terms(const TkLoss& args, void* loss_sum, void* weight_sum) {
  constexpr const char* op = "tk_loss_terms";
  const Layout layout = layout_of(args);
  const int64_t tiles = ceil_div(args.height * args.width, threads), words = ceil_div(args.instances, word);
  launch(op, find_counted, grid_for(tiles * words, 1), threads, sizeof(CountedTile), args, layout);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    const int64_t blocks = args.videos * args.pair_count * tiles, parts = parts_of(args, blocks);
    launch(op, sum_tiles<T>, grid_for(parts * blocks, 1), threads, sizeof(ForwardTile<C>), args, layout, parts);
    launch(op, add_partial_sums<C>, grid_for(args.instances * args.pair_count, warps), threads, 0,
           static_cast<const C*>(layout.partial), args.instances * args.pair_count, tiles, static_cast<C*>(loss_sum),
           static_cast<C*>(weight_sum));
  });
}

void tk_loss_terms_backward(const TkLoss& args, const void* grad_loss_sum, void* grad_logits) {
  constexpr const char* op = "tk_loss_terms_backward";
  const Layout layout = layout_of(args);
  const int64_t area = args.height * args.width, lists = args.videos * args.pair_count;
  const int64_t tiles = ceil_div(area, threads), words = ceil_div(args.instances, word);
  launch(op, find_counted, grid_for(tiles * words, 1), threads, sizeof(CountedTile), args, layout);
  launch(op, clear_counts, grid_for(lists * (1 + area), threads), threads, 0, layout.total, lists * (1 + area));
  launch(op, count_matches, grid_for(lists * area, threads), threads, 0, args, layout);
  launch(op, make_room, grid_for(lists * tiles, 1), threads, (warps + 1) * sizeof(int32_t), args, layout);
  launch(op, fill_lists, grid_for(lists * area, threads), threads, 0, args, layout);
  launch(op, sort_lists, grid_for(lists * area, threads), threads, 0, args, layout);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t blocks = args.videos * args.frames * tiles, parts = parts_of(args, blocks);
    launch(op, gather_gradients<T>, grid_for(parts * blocks, 1), threads, links_kept * threads * sizeof(Link), args,
           layout, parts, static_cast<const Compute<T>*>(grad_loss_sum), static_cast<T*>(grad_logits));
  });
}

MFVIS_CUDA_KERNEL(tk_loss_terms_kernel, tk_loss_terms)
MFVIS_CUDA_KERNEL(tk_loss_terms_backward_kernel, tk_loss_terms_backward)

}  // namespace
}  // namespace mfvis
