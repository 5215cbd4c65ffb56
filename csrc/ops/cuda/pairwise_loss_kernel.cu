// Which neighbors have a similar color is the same for all instances of a video. So a block takes a tile of 32 x 8
// pixels of one frame, a thread compares its pixel's color with its neighbors', one bit each, and then the block
// goes through a part of the instances, of which up to 32 have their boxes in shared memory:
//
//   similar   a register     bit i: neighbor i of the thread's pixel has a similar color; 32 neighbors at a time
//   boxes     [32 instances][x1, x2, y1, y2]        shared memory
//   sums      [32 instances][8 warps] loss, count   shared memory, then
//   partial   [N, T, tiles]  loss, count            summed in order by a second launch
//
// For 3x3 kernels at dilations up to 8 the probabilities of an instance's pixels (labels.cuh) are computed once:
//
//   labels    2 x [8 + 2·dilation][32 + 2·dilation] on, off       shared memory, 6.8 KiB at dilation 2: the threads
//                                                                 fill one half while others still read the other
//
// and a pair costs ten operations. Other kernels, and pixels whose product of probabilities is too small, compute each
// pair from the logits in global memory, in some 60 operations.
//
// Every pixel in the box gathers from all its neighbors, forward and backward, so that there are no atomics. Floor: the
// logits in and around the boxes once, the gradient once, 12 bytes of colors per pixel.
#include <type_traits>

#include "../../common/box.h"
#include "../pairwise_loss.h"
#include "instances.cuh"
#include "labels.cuh"

namespace mfvis {
namespace {

constexpr int tile_width = 32, tile_height = 8, threads = tile_width * tile_height, warps = threads / 32;
constexpr int64_t max_shared_dilation = 8;

// Blocks per multiprocessor, as many as fit without keeping registers in memory.
template <typename T, bool SHARED>
constexpr int min_blocks = sizeof(T) == 8 ? 2
                           : SHARED       ? 4
                                          : 3;

// With fewer blocks than this, a block processes one mask of instances. The emulator needs few, so that small cases
// cover both.
#ifdef MFVIS_EMULATED
constexpr int64_t min_blocks_of_halves = 5;
#else
constexpr int64_t min_blocks_of_halves = 264;  // half of the places on an H200
#endif

struct PixelBox {
  int32_t x1, x2, y1, y2;
  __device__ bool has(int32_t x, int32_t y) const { return (x >= x1) & (x < x2) & (y >= y1) & (y < y2); }
  // Whether the box has a pixel up to `reach` away, for a box that has pixels.
  __device__ bool is_near(int32_t x, int32_t y, int32_t reach) const {
    return PixelBox{x1 - reach, x2 + reach, y1 - reach, y2 + reach}.has(x, y);
  }
};

template <typename C>
struct Shared {
  PixelBox boxes[instances_per_mask];
  C loss[instances_per_mask][warps];
  C count[instances_per_mask][warps];
};

// item = ((part · B + video) · T + frame) · tiles + tile, and the thread's pixel.
struct Item {
  __device__ Item(const PairwiseLoss& args, int64_t item)
      : height(static_cast<int32_t>(args.height)), width(static_cast<int32_t>(args.width)) {
    const int32_t across = static_cast<int32_t>(ceil_div(args.width, tile_width));
    const int32_t tiles = across * static_cast<int32_t>(ceil_div(args.height, tile_height));
    tile = static_cast<int32_t>(item % tiles);
    frame = static_cast<int32_t>(item / tiles % args.frames);
    video = static_cast<int32_t>(item / tiles / args.frames % args.videos);
    part = static_cast<int32_t>(item / tiles / args.frames / args.videos);
    left = tile % across * tile_width;
    top = tile / across * tile_height;
    x = left + static_cast<int32_t>(threadIdx.x) % tile_width;
    y = top + static_cast<int32_t>(threadIdx.x) / tile_width;
    colors = args.colors + (int64_t{video} * args.frames + frame) * 3 * args.height * args.width;
  }

  __device__ bool exists() const { return x < width && y < height; }
  // The index of a pixel in its frame, which has fewer than 2^31 of them.
  __device__ int32_t pixel(int32_t x, int32_t y) const { return y * width + x; }
  __device__ int32_t pixel() const { return pixel(x, y); }
  // Offset of this frame's logits for instance n. int64: there may be more than 2^31 of them.
  __device__ int64_t plane(const PairwiseLoss& args, int64_t n) const {
    return (n * args.frames + frame) * args.height * args.width;
  }

  int32_t height, width, frame, video, tile, part, left, top, x, y;
  const float* colors;
};

// The masks of instances of a part: every second one, then every second one of those that are left, and so on, so that
// the blocks that finish last are short. With few blocks, each mask is a part.
struct MasksOfPart {
  __device__ MasksOfPart(const PairwiseLoss& args, int32_t parts, int32_t part) {
    const bool one = parts == masks_of(args.instances);
    first = one ? part : (1 << part) - 1;
    step = one ? parts : 2 << part;
  }
  int32_t first, step;
};

// A pixel's neighbors, indexed row by row, including the pixel itself.
struct Neighbors {
  // side: kernel_size, known to the compiler for 3x3 kernels.
  __device__ Neighbors(const PairwiseLoss& args, int32_t side)
      : side(side), step(static_cast<int32_t>(args.dilation)), inverse_side(1.0f / static_cast<float>(side)) {}

  __device__ int32_t count() const { return side * side; }
  __device__ int32_t reach() const { return side / 2 * step; }
  __device__ int32_t dx(int32_t i) const { return (i - row_of(i, inverse_side) * side - side / 2) * step; }
  __device__ int32_t dy(int32_t i) const { return (row_of(i, inverse_side) - side / 2) * step; }

  // Bit i: neighbor first + i exists, is not the pixel itself, and has a similar color.
  __device__ uint32_t similar(const PairwiseLoss& args, const Item& item, int32_t first) const {
    const int64_t area = args.height * args.width;
    uint32_t bits = 0;
    if (!item.exists()) return bits;
    const float* const p = item.colors + item.pixel();
    for (int32_t i = 0; i < 32 && first + i < count(); ++i) {
      const int32_t x = item.x + dx(first + i), y = item.y + dy(first + i);
      if (first + i == count() / 2 || x < 0 || x >= item.width || y < 0 || y >= item.height) continue;
      const float* const q = item.colors + item.pixel(x, y);
      const float l = p[0] - q[0], a = p[area] - q[area], b = p[2 * area] - q[2 * area];
      bits |= static_cast<uint32_t>(l * l + a * a + b * b <= args.max_squared_distance) << i;
    }
    return bits;
  }

  int32_t side, step;
  float inverse_side;
};

// Loads the boxes of a mask of instances in the item's frame into shared memory. Returns those of `mine` that touch the
// tile or a pixel up to `reach` away.
template <typename C>
__device__ uint32_t find_boxes(const PairwiseLoss& args, const Item& item, int32_t mask_index, uint32_t mine,
                               Shared<C>& shared, int32_t reach) {
  __syncthreads();
  if (threadIdx.x < instances_per_mask) {
    const int64_t n = int64_t{mask_index} * instances_per_mask + threadIdx.x;
    Span rows{0, 0}, columns{0, 0};
    if (n < args.instances) {
      const float* const box = args.boxes + (n * args.frames + item.frame) * 4;
      if (box_is_present(box)) {
        rows = pixels_inside(box[1], box[3], args.height);
        columns = pixels_inside(box[0], box[2], args.width);
      }
    }
    shared.boxes[threadIdx.x] = {static_cast<int32_t>(columns.begin), static_cast<int32_t>(columns.end),
                                 static_cast<int32_t>(rows.begin), static_cast<int32_t>(rows.end)};
  }
  __syncthreads();
  const PixelBox box = shared.boxes[threadIdx.x % 32];
  const bool near = box.x1 < box.x2 && box.y1 < box.y2 && box.x1 < item.left + tile_width + reach &&
                    box.x2 > item.left - reach && box.y1 < item.top + tile_height + reach && box.y2 > item.top - reach;
  return __ballot_sync(whole_warp, near) & mine;
}

// The labels of one instance's pixels in the tile and next to it, for 3x3 kernels.
template <typename C>
struct LabelTile {
  __device__ LabelTile(Shared<C>& shared, const PairwiseLoss& args)
      : dilation(static_cast<int32_t>(args.dilation)),
        stride(tile_width + 2 * dilation),
        size(stride * (tile_height + 2 * dilation)),
        own((static_cast<int32_t>(threadIdx.x) / tile_width + dilation) * stride +
            static_cast<int32_t>(threadIdx.x) % tile_width + dilation),
        scaled_inverse((1 << 16) / stride + 1),
        labels(reinterpret_cast<Labels<C>*>(&shared + 1)) {}

  static int64_t bytes(int64_t dilation) {
    return 2 * (tile_width + 2 * dilation) * (tile_height + 2 * dilation) * static_cast<int64_t>(sizeof(Labels<C>));
  }

  // Fills the other half, by all threads. A single barrier suffices: a thread that fills the half of two instances ago
  // has passed the barrier of the last one, and so all have read that half.
  template <typename T>
  __device__ void fill(const Item& item, const T* logits) {
    labels += half ? -size : size;
    half = !half;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < size; i += threads) {
      const int32_t row =
          i * scaled_inverse >> 16;  // i / stride: the error is below i / 2^16, which is below 1 / stride
      const int32_t y = item.top - dilation + row, x = item.left - dilation + i - row * stride;
      const bool exists = (x >= 0) & (x < item.width) & (y >= 0) & (y < item.height);
      labels[i] = labels_of(exists ? load(logits[item.pixel(x, y)]) : C(0));
    }
    __syncthreads();
  }

  __device__ Labels<C> at_own() const { return labels[own]; }
  // i: row by row, 4 is the pixel itself.
  __device__ Labels<C> at(int32_t i) const { return labels[own + ((i / 3 - 1) * stride + i % 3 - 1) * dilation]; }

  int32_t dilation, stride, size, own, scaled_inverse;
  bool half = false;  // whether the second of the two was filled last
  Labels<C>* labels;
};

// Calls visit(neighbor, x, y) for each similar neighbor of the pixel. `similar` keeps what was found from neighbor
// `known` on: for up to 32 neighbors it is found once for all instances.
template <typename Visit>
__device__ void each_similar(const PairwiseLoss& args, const Item& item, const Neighbors& neighbors, uint32_t& similar,
                             int32_t& known, const Visit& visit) {
  for (int32_t first = 0; first < neighbors.count(); first += 32) {
    if (known != first) similar = neighbors.similar(args, item, first);
    known = first;
    for (uint32_t left = similar; left != 0; left &= left - 1) {
      const int32_t neighbor = first + __ffs(static_cast<int>(left)) - 1;
      visit(item.x + neighbors.dx(neighbor), item.y + neighbors.dy(neighbor));
    }
  }
}

// The loss of a pixel of an instance, pair by pair from the logits.
template <typename T>
__device__ void add_pairs(const PairwiseLoss& args, const Item& item, const Neighbors& neighbors, uint32_t& similar,
                          int32_t& known, const T* logits, Compute<T>& loss, Compute<T>& count) {
  using C = Compute<T>;
  const C a = load(logits[item.pixel()]), exp_a = exp_neg_abs(a);
  each_similar(args, item, neighbors, similar, known, [&](int32_t x, int32_t y) {
    const C b = load(logits[item.pixel(x, y)]);
    loss += disagreement(a, exp_a, b, exp_neg_abs(b));
    count += 1;
  });
}

template <typename T, bool SHARED>
__global__ void __launch_bounds__(threads, min_blocks<T, SHARED>)
    sum_tiles(PairwiseLoss args, int64_t items, int32_t parts, int64_t tiles) {
  using C = Compute<T>;
  Shared<C>& shared = *shared_memory<Shared<C>>();
  const Neighbors neighbors(args, SHARED ? 3 : static_cast<int32_t>(args.kernel_size));
  LabelTile<C> tile(shared, args);
  const int own = threadIdx.x;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(args, index);
    const MasksOfPart masks(args, parts, item.part);
    int32_t known = SHARED ? 0 : -1;
    uint32_t similar = SHARED ? neighbors.similar(args, item, 0) : 0;
    for (int32_t mask_index = masks.first; mask_index < masks_of(args.instances); mask_index += masks.step) {
      const uint32_t mine = instances_of(args.video_index, args.instances, args.videos, item.video, mask_index);
      if (mine == 0) continue;
      const uint32_t touched = find_boxes(args, item, mask_index, mine, shared, 0);
      const int64_t first = int64_t{mask_index} * instances_per_mask;
      for (uint32_t instances = touched; instances != 0; instances &= instances - 1) {
        const int i = __ffs(static_cast<int>(instances)) - 1;
        const T* const logits = static_cast<const T*>(args.logits) + item.plane(args, first + i);
        if (SHARED) tile.fill(item, logits);
        const bool counts = item.exists() && shared.boxes[i].has(item.x, item.y);
        C loss = 0, count = 0;
        if (SHARED && counts && similar != 0) {
          LossOfPairs<C> pairs;
          const Labels<C> here = tile.at_own();
#pragma unroll
          for (int n = 0; n < 9; ++n) {
            if (n != 4) pairs.add((similar & 1u << n) != 0, here, tile.at(n));
          }
          count = static_cast<C>(__popc(similar));
          loss = pairs.is_exact() ? pairs.value() : C(-1);
        }
        if (counts && (!SHARED || loss < 0)) {
          loss = count = 0;
          add_pairs(args, item, neighbors, similar, known, logits, loss, count);
        }
        if (__any_sync(whole_warp, counts)) loss = sum_two_over_warp(loss, count);
        if (own % 32 == 0) shared.loss[i][own / 32] = loss;
        if (own % 32 == 16) shared.count[i][own / 32] = loss;
      }
      __syncthreads();
      if (own < instances_per_mask && (mine >> own & 1u) != 0) {
        C loss = 0, count = 0;
        for (int w = 0; w < warps && (touched >> own & 1u) != 0; ++w) {
          loss += shared.loss[own][w];
          count += shared.count[own][w];
        }
        C* const to =
            static_cast<C*>(args.scratch) + (((first + own) * args.frames + item.frame) * tiles + item.tile) * 2;
        to[0] = loss;
        to[1] = count;
      }
    }
  }
}

// The gradient at a pixel of an instance, pair by pair from the logits.
template <typename T>
__device__ Compute<T> gradient_of_pairs(const PairwiseLoss& args, const Item& item, const Neighbors& neighbors,
                                        uint32_t& similar, int32_t& known, const T* logits, const PixelBox& box) {
  using C = Compute<T>;
  const C a = load(logits[item.pixel()]), exp_a = exp_neg_abs(a);
  const int own_counts = box.has(item.x, item.y);
  C gradient = 0;
  each_similar(args, item, neighbors, similar, known, [&](int32_t x, int32_t y) {
    const int times = own_counts + box.has(x, y);
    if (times == 0) return;
    const C b = load(logits[item.pixel(x, y)]);
    C slope_a, slope_b;
    disagreement_slopes(a, exp_a, b, exp_neg_abs(b), static_cast<C>(times), slope_a, slope_b);
    gradient += slope_a;
  });
  return gradient;
}

template <typename T, bool SHARED>
__global__ void __launch_bounds__(threads, min_blocks<T, SHARED>)
    gather_gradients(PairwiseLoss args, int64_t items, int32_t parts, const Compute<T>* grad_loss_sum, T* grad_logits) {
  using C = Compute<T>;
  Shared<C>& shared = *shared_memory<Shared<C>>();
  const Neighbors neighbors(args, SHARED ? 3 : static_cast<int32_t>(args.kernel_size));
  LabelTile<C> tile(shared, args);
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(args, index);
    const MasksOfPart masks(args, parts, item.part);
    int32_t known = SHARED ? 0 : -1;
    uint32_t similar = SHARED ? neighbors.similar(args, item, 0) : 0;
    for (int32_t mask_index = masks.first; mask_index < masks_of(args.instances); mask_index += masks.step) {
      const uint32_t mine = instances_of(args.video_index, args.instances, args.videos, item.video, mask_index);
      if (mine == 0) continue;
      const uint32_t touched = find_boxes(args, item, mask_index, mine, shared, neighbors.reach());
      const int64_t first = int64_t{mask_index} * instances_per_mask, clip = args.frames * args.height * args.width;
      T* const grads = grad_logits + item.plane(args, first) + item.pixel();
      for (uint32_t left = !args.add && item.exists() ? mine & ~touched : 0; left != 0; left &= left - 1) {
        store(C(0), grads + (__ffs(static_cast<int>(left)) - 1) * clip);
      }
      for (uint32_t left = touched; left != 0; left &= left - 1) {
        const int i = __ffs(static_cast<int>(left)) - 1;
        const T* const logits = static_cast<const T*>(args.logits) + item.plane(args, first + i);
        const PixelBox box = shared.boxes[i];
        if (SHARED) tile.fill(item, logits);
        C gradient = 0;
        bool is_exact = !SHARED && item.exists();
        if (SHARED && similar != 0 && box.is_near(item.x, item.y, tile.dilation)) {
          const bool own_counts = box.has(item.x, item.y);
          const Labels<C> here = tile.at_own();
          SlopeOfPairs<C> slopes;
#pragma unroll
          for (int n = 0; n < 9; ++n) {
            if (n == 4) continue;
            const bool other_counts =
                box.has(item.x + (n % 3 - 1) * tile.dilation, item.y + (n / 3 - 1) * tile.dilation);
            const bool counts = (similar & 1u << n) != 0 && (own_counts || other_counts);
            slopes.add(counts, own_counts && other_counts ? C(2) : C(1), here, tile.at(n));
          }
          gradient = slopes.value(here);
          is_exact = !slopes.is_exact();
        }
        if (is_exact) gradient = gradient_of_pairs(args, item, neighbors, similar, known, logits, box);
        gradient *= grad_loss_sum[(first + i) * args.frames + item.frame];
        T* const to = grads + i * clip;
        if (!args.add) {
          if (item.exists()) store(gradient, to);
        } else if (gradient != 0) {  // else the pixel is not touched
          store(load(*to) + gradient, to);
        }
      }
    }
  }
}

int64_t blocks_of_part(const PairwiseLoss& args) { return args.videos * args.frames * pairwise_loss_tiles(args); }

int32_t parts_of(const PairwiseLoss& args) {
  const int32_t masks = masks_of(args.instances);
  if (blocks_of_part(args) < min_blocks_of_halves) return masks;
  int32_t halves = 0;
  while (masks >> halves > 0) ++halves;
  return halves;
}

// Calls run(shared, bytes of shared memory): the kernels with labels in shared memory, or the others.
template <typename C, typename Run>
void with_labels(const PairwiseLoss& args, const Run& run) {
  if (args.kernel_size == 3 && args.dilation <= max_shared_dilation) {
    run(std::true_type{}, sizeof(Shared<C>) + LabelTile<C>::bytes(args.dilation));
  } else {
    run(std::false_type{}, sizeof(Shared<C>));
  }
}

void pairwise_loss_terms(const PairwiseLoss& args, void* loss_sum, void* count) {
  constexpr const char* op = "pairwise_loss";
  const int32_t parts = parts_of(args);
  const int64_t items = parts * blocks_of_part(args), tiles = pairwise_loss_tiles(args),
                sums = args.instances * args.frames;
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    with_labels<C>(args, [&](auto shared, int64_t bytes) {
      launch(op, sum_tiles<T, decltype(shared)::value>, grid_for(items, 1), threads, bytes, args, items, parts, tiles);
    });
    launch(op, add_partial_sums<C>, grid_for(sums, 8), 256, 0, static_cast<const C*>(args.scratch), sums, tiles,
           static_cast<C*>(loss_sum), static_cast<C*>(count));
  });
}

void pairwise_loss_terms_backward(const PairwiseLoss& args, const void* grad_loss_sum, void* grad_logits) {
  const int32_t parts = parts_of(args);
  const int64_t items = parts * blocks_of_part(args);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    with_labels<Compute<T>>(args, [&](auto shared, int64_t bytes) {
      launch("pairwise_loss", gather_gradients<T, decltype(shared)::value>, grid_for(items, 1), threads, bytes, args,
             items, parts, static_cast<const Compute<T>*>(grad_loss_sum), static_cast<T*>(grad_logits));
    });
  });
}

MFVIS_CUDA_KERNEL(pairwise_loss_terms_kernel, pairwise_loss_terms)
MFVIS_CUDA_KERNEL(pairwise_loss_terms_backward_kernel, pairwise_loss_terms_backward)

}  // namespace
}  // namespace mfvis
