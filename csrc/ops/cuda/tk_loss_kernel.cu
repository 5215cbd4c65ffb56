// All instances of all decoder layers share the matches, so a block takes a tile of 256 pixels of one pair of frames,
// reads its matches once, and goes through the instances 32 at a time:
//
//   counted   [N / 32][H·W]  words of 32 bits      bit n of a pixel: it counts for instance n; 1/160 of the logits
//
//   forward   block = tile x pair x 32 instances
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
constexpr int slab = 16;     // matches of a pixel at a time
constexpr int together = 4;  // instances whose gradients a thread keeps in registers

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

// counted: block = 256 pixels x one word of instances, whose boxes are turned into pixels a few frames at a time.
constexpr int frames_at_a_time = 32;
constexpr int64_t spans_bytes = word * frames_at_a_time * 4 * sizeof(int32_t);

__global__ void __launch_bounds__(threads) find_counted(TkLoss args, Layout layout) {
  int32_t* const spans = shared_memory<int32_t>();  // [32 instances][32 frames][x1, x2, y1, y2]
  const int64_t area = args.height * args.width, words = ceil_div(args.instances, word);
  const int64_t tiles = ceil_div(area, threads);
  for (int64_t item = blockIdx.x; item < tiles * words; item += gridDim.x) {
    const int64_t pixel = item % tiles * threads + threadIdx.x, first = item / tiles * word;
    const int32_t y = static_cast<int32_t>(pixel / args.width), x = static_cast<int32_t>(pixel % args.width);
    uint32_t bits = 0;
    for (int64_t t = 0; t < args.frames; t += frames_at_a_time) {
      __syncthreads();
      for (int i = threadIdx.x; i < word * frames_at_a_time; i += threads) {
        const int64_t n = first + i / frames_at_a_time, frame = t + i % frames_at_a_time;
        Span rows{0, 0}, columns{0, 0};
        if (n < args.instances && frame < args.frames) {
          const float* const box = args.boxes + (n * args.frames + frame) * 4;
          if (box_is_present(box)) {
            rows = pixels_inside(box[1], box[3], args.height);
            columns = pixels_inside(box[0], box[2], args.width);
          }
        }
        spans[4 * i] = static_cast<int32_t>(columns.begin);
        spans[4 * i + 1] = static_cast<int32_t>(columns.end);
        spans[4 * i + 2] = static_cast<int32_t>(rows.begin);
        spans[4 * i + 3] = static_cast<int32_t>(rows.end);
      }
      __syncthreads();
      const int present = static_cast<int>(args.frames - t < frames_at_a_time ? args.frames - t : frames_at_a_time);
      for (int i = 0; i < word; ++i) {
        const int32_t* at = spans + 4 * i * frames_at_a_time;
        bool inside = false;
        for (int frame = 0; frame < present; ++frame, at += 4) {
          inside = inside || (x >= at[0] && x < at[1] && y >= at[2] && y < at[3]);
        }
        bits |= static_cast<uint32_t>(inside) << i;
      }
    }
    if (pixel < area) layout.counted[item / tiles * area + pixel] = bits;
  }
}

// A pair that names no frame of the clip, which only the CPU looks for, has no matches.
__device__ bool is_frame(const TkLoss& args, int64_t named) { return named >= 0 && named < args.frames; }

// Where the matches of one pair lie.
struct Window {
  __device__ Window(const TkLoss& args, int64_t list)
      : height(static_cast<int32_t>(args.height)),
        width(static_cast<int32_t>(args.width)),
        side(static_cast<int32_t>(2 * args.radius + 1)),
        dilation(static_cast<int32_t>(args.dilation)) {
    const int64_t* const shift = args.shift ? args.shift + 2 * list : nullptr;
    const int32_t reach = static_cast<int32_t>(args.radius) * dilation;
    first_dy = (shift ? near(shift[0]) : 0) - reach;
    first_dx = (shift ? near(shift[1]) : 0) - reach;
  }

  // The pixel of the source frame, or -1 if there is no match.
  __device__ int32_t source(int32_t candidate, int32_t pixel) const {
    const int32_t row = candidate / side, column = candidate - row * side;
    const int32_t y = pixel / width + first_dy + dilation * row;
    const int32_t x = pixel % width + first_dx + dilation * column;
    const bool exists = candidate >= 0 && candidate < side * side && y >= 0 && y < height && x >= 0 && x < width;
    return exists ? y * width + x : -1;
  }

  static __device__ int32_t near(int64_t shift) {
    constexpr int64_t far = 1 << 28;
    return static_cast<int32_t>(shift < -far ? -far : shift > far ? far : shift);
  }

  int32_t height, width, side, dilation;
  int32_t first_dy, first_dx;
};

// item = ((word · B + video) · P + pair) · tiles + tile.
struct Item {
  __device__ Item(const TkLoss& args, int64_t item, int64_t tiles) {
    tile = item % tiles;
    list = item / tiles % (args.videos * args.pair_count);
    pair = list % args.pair_count;
    video = list / args.pair_count;
    which_word = item / tiles / (args.videos * args.pair_count);
  }

  int64_t tile, list, pair, video, which_word;
};

template <typename C>
struct ForwardTile {
  int32_t source[slab][threads];
  float weight[slab][threads];
  C loss[word][warps];
  C total[word][warps];
};

template <typename T>
__global__ void __launch_bounds__(threads, 2) sum_tiles(TkLoss args, Layout layout) {
  using C = Compute<T>;
  ForwardTile<C>& shared = *shared_memory<ForwardTile<C>>();
  const int64_t area = args.height * args.width, tiles = ceil_div(area, threads);
  const int64_t items = ceil_div(args.instances, word) * args.videos * args.pair_count * tiles;
  const int own = threadIdx.x, lane = own % 32, warp = own / 32;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(args, index, tiles);
    const uint32_t mine = instances_of(args.video_index, args.instances, args.videos, item.video, item.which_word);
    if (mine == 0) continue;
    const int32_t pixel = static_cast<int32_t>(item.tile * threads + own);
    const bool exists =
        pixel < area && is_frame(args, args.pairs[2 * item.pair]) && is_frame(args, args.pairs[2 * item.pair + 1]);
    const uint32_t counted = exists ? layout.counted[item.which_word * area + pixel] & mine : 0;
    const Window window(args, item.list);
    for (int i = own; i < word * warps; i += threads)
      shared.loss[i / warps][i % warps] = shared.total[i / warps][i % warps] = 0;
    __syncthreads();
    for (int64_t first = 0; first < args.matches; first += slab) {
      int found = 0;  // Each thread reads back its own column alone: no barrier.
      for (int64_t k = first; k < args.matches && k < first + slab; ++k) {
        if (counted == 0) break;
        const int64_t at = (item.list * args.matches + k) * area + pixel;
        const float weight = args.weight[at];
        const int32_t source = weight != 0 ? window.source(args.offset[at], pixel) : -1;
        if (source < 0) continue;
        shared.source[found][own] = source;
        shared.weight[found][own] = weight;
        ++found;
      }
      for (int i = 0; i < word; ++i) {
        const bool counts = (counted >> i & 1u) != 0 && found > 0;
        if (!__any_sync(whole_warp, counts)) continue;
        C loss = 0, total = 0;
        if (counts) {
          const T* const logits =
              static_cast<const T*>(args.logits) + (item.which_word * word + i) * args.frames * area;
          const T* const sources = logits + args.pairs[2 * item.pair + 1] * area;
          const C a = load(logits[args.pairs[2 * item.pair] * area + pixel]), decay_a = decay(a);
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
                    (((item.which_word * word + own) * args.pair_count + item.pair) * tiles + item.tile) * 2;
      to[0] = loss;
      to[1] = total;
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(threads) clear_counts(int32_t* counts, int64_t size) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < size; i += step) counts[i] = 0;
}

// Calls visit(list, source, k · H·W + target, weight) for every match that weighs something; one thread each.
template <typename Visit>
__device__ void each_match(const TkLoss& args, const Visit& visit) {
  const int64_t area = args.height * args.width, count = args.videos * args.pair_count * args.matches * area;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step) {
    const float weight = args.weight[i];
    if (weight == 0) continue;
    const int64_t list = i / (args.matches * area), code = i - list * args.matches * area;
    const int32_t source = Window(args, list).source(args.offset[i], static_cast<int32_t>(code % area));
    if (source >= 0) visit(list, source, static_cast<int32_t>(code), weight);
  }
}

__global__ void __launch_bounds__(threads) count_matches(TkLoss args, Layout layout) {
  const int64_t area = args.height * args.width;
  each_match(args,
             [&](int64_t list, int32_t source, int32_t, float) { atomicAdd(layout.count + list * area + source, 1); });
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
  each_match(args, [&](int64_t list, int32_t source, int32_t code, float) {
    const int32_t slot = atomicAdd(layout.end + list * area + source, 1);
    layout.code[list * args.matches * area + slot] = code;
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

// Adds to the gradients of the `together` instances from `first` on what their pixel `pixel` of frame `frame` causes as
// a target and as a source. counts: bits of these instances.
template <typename T>
struct Gather {
  using C = Compute<T>;

  const TkLoss& args;
  const Layout& layout;
  const C* grad_loss_sum;
  int64_t video, first, which_word;
  uint32_t mine;
  int32_t pixel;
  C gradient[together];

  __device__ C logit(int i, int64_t frame, int32_t at) const {
    const int64_t area = args.height * args.width;
    return load(static_cast<const T*>(args.logits)[((first + i) * args.frames + frame) * area + at]);
  }

  // One match, of which this pixel is the target (or else the source); `other` is the pixel at the other end.
  __device__ void add(int64_t frame, int64_t pair, uint32_t counts, int64_t other_frame, int32_t other, float weight) {
#pragma unroll
    for (int i = 0; i < together; ++i) {
      if ((counts >> i & 1u) == 0) continue;
      const C here = logit(i, frame, pixel), there = logit(i, other_frame, other);
      const C scale = grad_loss_sum[(first + i) * args.pair_count + pair] * static_cast<C>(weight);
      C slope_here, slope_there;
      disagreement_slopes(here, decay(here), there, decay(there), scale, slope_here, slope_there);
      gradient[i] += slope_here;
    }
  }

  __device__ void run(int64_t frame) {
    const int64_t area = args.height * args.width;
    const int shift = static_cast<int>(first % word);
    const uint32_t* const counted = layout.counted + which_word * area;
    for (int64_t pair = 0; pair < args.pair_count; ++pair) {
      const int64_t target = args.pairs[2 * pair], source = args.pairs[2 * pair + 1];
      const int64_t list = video * args.pair_count + pair;
      const uint32_t own = (counted[pixel] & mine) >> shift & ((1u << together) - 1);
      if (target == frame && own != 0 && is_frame(args, source)) {
        const Window window(args, list);
        for (int64_t k = 0; k < args.matches; ++k) {
          const int64_t at = (list * args.matches + k) * area + pixel;
          const float weight = args.weight[at];
          const int32_t match = weight != 0 ? window.source(args.offset[at], pixel) : -1;
          if (match >= 0) add(frame, pair, own, source, match, weight);
        }
      }
      if (source == frame && is_frame(args, target)) {
        const int64_t base = list * args.matches * area;
        const int32_t end = layout.end[list * area + pixel];
        for (int32_t j = end - layout.count[list * area + pixel]; j < end; ++j) {
          const int32_t match = layout.code[base + j];
          const uint32_t counts = (counted[match] & mine) >> shift & ((1u << together) - 1);
          if (counts != 0) add(frame, pair, counts, target, match, layout.weight[base + j]);
        }
      }
    }
  }
};

// item = ((groups of instances · B + video) · T + frame) · tiles + tile: a thread writes one pixel of `together`
// instances. Two blocks a multiprocessor, but for double: 128 registers would not do on every architecture.
template <typename T>
__global__ void __launch_bounds__(threads, sizeof(T) < 8 ? 2 : 1)
    gather_gradients(TkLoss args, Layout layout, const Compute<T>* grad_loss_sum, T* grad_logits) {
  const int64_t area = args.height * args.width, tiles = ceil_div(area, threads);
  const int64_t groups = ceil_div(args.instances, together);
  for (int64_t item = blockIdx.x; item < groups * args.videos * args.frames * tiles; item += gridDim.x) {
    const int64_t pixel = item % tiles * threads + threadIdx.x, frame = item / tiles % args.frames;
    const int64_t video = item / tiles / args.frames % args.videos,
                  first = item / tiles / args.frames / args.videos * together;
    const uint32_t mine = instances_of(args.video_index, args.instances, args.videos, video, first / word);
    const uint32_t ours = mine >> (first % word) & ((1u << together) - 1);
    if (ours == 0 || pixel >= area) continue;
    Gather<T> gather{args, layout, grad_loss_sum, video, first, first / word, mine, static_cast<int32_t>(pixel), {}};
    gather.run(frame);
#pragma unroll
    for (int i = 0; i < together; ++i) {
      if ((ours >> i & 1u) != 0) {
        store(gather.gradient[i], grad_logits + ((first + i) * args.frames + frame) * area + pixel);
      }
    }
  }
}

void tk_loss_terms(const TkLoss& args, void* loss_sum, void* weight_sum) {
  constexpr const char* op = "tk_loss_terms";
  const Layout layout = layout_of(args);
  const int64_t tiles = ceil_div(args.height * args.width, threads), words = ceil_div(args.instances, word);
  launch(op, find_counted, grid_for(tiles * words, 1), threads, spans_bytes, args, layout);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    launch(op, sum_tiles<T>, grid_for(words * args.videos * args.pair_count * tiles, 1), threads,
           sizeof(ForwardTile<C>), args, layout);
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
  launch(op, find_counted, grid_for(tiles * words, 1), threads, spans_bytes, args, layout);
  launch(op, clear_counts, grid_for(lists * (1 + area), threads), threads, 0, layout.total, lists * (1 + area));
  launch(op, count_matches, grid_for(lists * args.matches * area, threads), threads, 0, args, layout);
  launch(op, make_room, grid_for(lists * tiles, 1), threads, (warps + 1) * sizeof(int32_t), args, layout);
  launch(op, fill_lists, grid_for(lists * args.matches * area, threads), threads, 0, args, layout);
  launch(op, sort_lists, grid_for(lists * area, threads), threads, 0, args, layout);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t groups = ceil_div(args.instances, together);
    launch(op, gather_gradients<T>, grid_for(groups * args.videos * args.frames * tiles, 1), threads, 0, args, layout,
           static_cast<const Compute<T>*>(grad_loss_sum), static_cast<T*>(grad_logits));
  });
}

MFVIS_CUDA_KERNEL(tk_loss_terms_kernel, tk_loss_terms)
MFVIS_CUDA_KERNEL(tk_loss_terms_backward_kernel, tk_loss_terms_backward)

}  // namespace
}  // namespace mfvis
