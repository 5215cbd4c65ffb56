// Which neighbors have a similar color is the same for all instances of a video. So a block takes a tile of 32 x 8
// pixels of one frame, a thread compares its pixel's color with its neighbors', one bit each, and then the block
// processes the instances 32 at a time:
//
//   similar   a register     bit i: neighbor i of the thread's pixel has a similar color; 32 neighbors at a time
//   boxes     [32 instances][x1, x2, y1, y2]        shared memory
//   sums      [32 instances][8 warps] loss, count   shared memory, then
//   partial   [N, T, tiles]  loss, count            summed in order by a second launch
//
// The disagreement is symmetric: in the forward pass half of the neighbors suffice, and a pair counts once for each of
// its two pixels that lies in the box. In the backward pass a pixel gathers from all its neighbors, which computes
// every pair twice and needs no atomics. Floor: the logits in and around the boxes once, the gradient once, 12 bytes of
// colors per pixel; some 50 operations per similar pair and instance.
#include "../../common/box.h"
#include "../../common/math.h"
#include "../pairwise_loss.h"
#include "instances.cuh"

namespace mfvis {
namespace {

constexpr int tile_width = 32, tile_height = 8, threads = tile_width * tile_height, warps = threads / 32;

struct PixelBox {
  int32_t x1, x2, y1, y2;
  __device__ bool has(int32_t x, int32_t y) const { return x >= x1 && x < x2 && y >= y1 && y < y2; }
};

template <typename C>
struct Shared {
  PixelBox boxes[instances_per_mask];
  C loss[instances_per_mask][warps];
  C count[instances_per_mask][warps];
};

// item = ((mask · B + video) · T + frame) · tiles + tile, and the thread's pixel.
struct Item {
  __device__ Item(const PairwiseLoss& args, int64_t item)
      : videos(args.videos), height(static_cast<int32_t>(args.height)), width(static_cast<int32_t>(args.width)) {
    const int64_t across = ceil_div(args.width, tile_width), tiles = across * ceil_div(args.height, tile_height);
    tile = item % tiles;
    frame = item / tiles % args.frames;
    video = item / tiles / args.frames % videos;
    mask_index = item / tiles / args.frames / videos;
    left = static_cast<int32_t>(tile % across) * tile_width;
    top = static_cast<int32_t>(tile / across) * tile_height;
    x = left + static_cast<int32_t>(threadIdx.x) % tile_width;
    y = top + static_cast<int32_t>(threadIdx.x) / tile_width;
    mine = instances_of(args.video_index, args.instances, videos, video, mask_index);
    colors = args.colors + (video * args.frames + frame) * 3 * args.height * args.width;
  }

  __device__ bool exists() const { return x < width && y < height; }
  // Offset of this frame's logits for instance i of the mask. int64: there may be more than 2^31 of them.
  __device__ int64_t plane(const PairwiseLoss& args, int i) const {
    return ((mask_index * instances_per_mask + i) * args.frames + frame) * args.height * args.width;
  }

  int64_t videos, tile, frame, video, mask_index;
  int32_t height, width, left, top, x, y;
  uint32_t mine;
  const float* colors;
};

// A pixel's neighbors, indexed row by row, including the pixel itself.
struct Neighbors {
  __device__ Neighbors(const PairwiseLoss& args)
      : side(static_cast<int32_t>(args.kernel_size)),
        step(static_cast<int32_t>(args.dilation)),
        inverse_side(1.0f / static_cast<float>(side)) {}

  __device__ int32_t count() const { return side * side; }
  __device__ int32_t dx(int32_t i) const { return (i - row_of(i, inverse_side) * side - side / 2) * step; }
  __device__ int32_t dy(int32_t i) const { return (row_of(i, inverse_side) - side / 2) * step; }

  // Bit i: neighbor first + i exists, is not the pixel itself, and has a similar color.
  __device__ uint32_t similar(const PairwiseLoss& args, const Item& item, int32_t first) const {
    const int64_t area = args.height * args.width;
    uint32_t bits = 0;
    if (!item.exists()) return bits;
    const float* const p = item.colors + static_cast<int64_t>(item.y) * item.width + item.x;
    for (int32_t i = 0; i < 32 && first + i < count(); ++i) {
      const int32_t x = item.x + dx(first + i), y = item.y + dy(first + i);
      if (first + i == count() / 2 || x < 0 || x >= item.width || y < 0 || y >= item.height) continue;
      const float* const q = item.colors + static_cast<int64_t>(y) * item.width + x;
      const float l = p[0] - q[0], a = p[area] - q[area], b = p[2 * area] - q[2 * area];
      bits |= static_cast<uint32_t>(l * l + a * a + b * b <= args.max_squared_distance) << i;
    }
    return bits;
  }

  int32_t side, step;
  float inverse_side;
};

// Loads the boxes of a mask of instances in the item's frame into shared memory. Returns those that touch the tile or a
// pixel up to `reach` away.
template <typename C>
__device__ uint32_t find_boxes(const PairwiseLoss& args, const Item& item, Shared<C>& shared) {
  __syncthreads();
  if (threadIdx.x < instances_per_mask) {
    const int64_t n = item.mask_index * instances_per_mask + threadIdx.x;
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
  const int32_t reach = static_cast<int32_t>(args.dilation * (args.kernel_size / 2));
  const bool near = box.x1 < box.x2 && box.y1 < box.y2 && box.x1 < item.left + tile_width + reach &&
                    box.x2 > item.left - reach && box.y1 < item.top + tile_height + reach && box.y2 > item.top - reach;
  return __ballot_sync(whole_warp, near) & item.mine;
}

template <typename T>
__global__ void __launch_bounds__(threads, 2) sum_tiles(PairwiseLoss args, int64_t items, int64_t tiles) {
  using C = Compute<T>;
  Shared<C>& shared = *shared_memory<Shared<C>>();
  const Neighbors neighbors(args);
  const int own = threadIdx.x;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(args, index);
    if (item.mine == 0) continue;
    const uint32_t touched = find_boxes(args, item, shared);
    for (int i = own; i < instances_per_mask * warps; i += threads) {
      shared.loss[i / warps][i % warps] = shared.count[i / warps][i % warps] = 0;
    }
    __syncthreads();
    for (int32_t first = neighbors.count() / 2; first < neighbors.count() && touched != 0; first += 32) {
      const uint32_t similar = neighbors.similar(args, item, first);
      for (uint32_t instances = touched; instances != 0; instances &= instances - 1) {
        const int i = __ffs(static_cast<int>(instances)) - 1;
        const PixelBox box = shared.boxes[i];
        const int own_counts = box.has(item.x, item.y);
        C loss = 0, count = 0;
        if (similar != 0) {
          const T* const logits = static_cast<const T*>(args.logits) + item.plane(args, i);
          const C a = load(logits[static_cast<int64_t>(item.y) * item.width + item.x]), exp_a = exp_neg_abs(a);
          for (uint32_t left = similar; left != 0; left &= left - 1) {
            const int32_t neighbor = first + __ffs(static_cast<int>(left)) - 1;
            const int32_t x = item.x + neighbors.dx(neighbor), y = item.y + neighbors.dy(neighbor);
            const int times = own_counts + box.has(x, y);
            if (times == 0) continue;
            const C b = load(logits[static_cast<int64_t>(y) * item.width + x]);
            loss += static_cast<C>(times) * disagreement(a, exp_a, b, exp_neg_abs(b));
            count += static_cast<C>(times);
          }
        }
        loss = sum_over_warp(loss);
        count = sum_over_warp(count);
        if (own % 32 == 0) {
          shared.loss[i][own / 32] += loss;
          shared.count[i][own / 32] += count;
        }
      }
    }
    __syncthreads();
    if (own < instances_per_mask && (item.mine >> own & 1u) != 0) {
      C loss = 0, count = 0;
      for (int w = 0; w < warps; ++w) {
        loss += shared.loss[own][w];
        count += shared.count[own][w];
      }
      C* const to = static_cast<C*>(args.scratch) +
                    (((item.mask_index * instances_per_mask + own) * args.frames + item.frame) * tiles + item.tile) * 2;
      to[0] = loss;
      to[1] = count;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(threads, 2)
    gather_gradients(PairwiseLoss args, int64_t items, const Compute<T>* grad_loss_sum, T* grad_logits) {
  using C = Compute<T>;
  Shared<C>& shared = *shared_memory<Shared<C>>();
  const Neighbors neighbors(args);
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(args, index);
    if (item.mine == 0) continue;
    const uint32_t touched = find_boxes(args, item, shared);
    uint32_t similar = 0;
    int32_t known = -1;  // the first neighbor of `similar`, which is computed once for up to 32 neighbors
    for (uint32_t instances = item.exists() ? item.mine : 0; instances != 0; instances &= instances - 1) {
      const int i = __ffs(static_cast<int>(instances)) - 1;
      const int64_t plane = item.plane(args, i), pixel = static_cast<int64_t>(item.y) * item.width + item.x;
      C gradient = 0;
      for (int32_t first = 0; first < neighbors.count() && (touched >> i & 1u) != 0; first += 32) {
        if (known != first) similar = neighbors.similar(args, item, first);
        known = first;
        if (similar == 0) continue;
        const PixelBox box = shared.boxes[i];
        const int own_counts = box.has(item.x, item.y);
        const T* const logits = static_cast<const T*>(args.logits) + plane;
        const C scale = grad_loss_sum[(item.mask_index * instances_per_mask + i) * args.frames + item.frame];
        const C a = load(logits[pixel]), exp_a = exp_neg_abs(a);
        for (uint32_t left = similar; left != 0; left &= left - 1) {
          const int32_t neighbor = first + __ffs(static_cast<int>(left)) - 1;
          const int32_t x = item.x + neighbors.dx(neighbor), y = item.y + neighbors.dy(neighbor);
          const int times = own_counts + box.has(x, y);
          if (times == 0) continue;
          const C b = load(logits[static_cast<int64_t>(y) * item.width + x]);
          C slope_a, slope_b;
          disagreement_slopes(a, exp_a, b, exp_neg_abs(b), scale * static_cast<C>(times), slope_a, slope_b);
          gradient += slope_a;
        }
      }
      store(gradient, grad_logits + plane + pixel);
    }
  }
}

int64_t items_of(const PairwiseLoss& args) {
  return ceil_div(args.instances, instances_per_mask) * args.videos * args.frames * pairwise_loss_tiles(args);
}

void pairwise_loss_terms(const PairwiseLoss& args, void* loss_sum, void* count) {
  constexpr const char* op = "pairwise_loss";
  const int64_t items = items_of(args), tiles = pairwise_loss_tiles(args), sums = args.instances * args.frames;
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    launch(op, sum_tiles<T>, grid_for(items, 1), threads, sizeof(Shared<C>), args, items, tiles);
    launch(op, add_partial_sums<C>, grid_for(sums, 8), 256, 0, static_cast<const C*>(args.scratch), sums, tiles,
           static_cast<C*>(loss_sum), static_cast<C*>(count));
  });
}

void pairwise_loss_terms_backward(const PairwiseLoss& args, const void* grad_loss_sum, void* grad_logits) {
  const int64_t items = items_of(args);
  with_floating_type(args.dtype, [&](auto element) {
    using T = decltype(element);
    launch("pairwise_loss", gather_gradients<T>, grid_for(items, 1), threads, sizeof(Shared<Compute<T>>), args, items,
           static_cast<const Compute<T>*>(grad_loss_sum), static_cast<T*>(grad_logits));
  });
}

MFVIS_CUDA_KERNEL(pairwise_loss_terms_kernel, pairwise_loss_terms)
MFVIS_CUDA_KERNEL(pairwise_loss_terms_backward_kernel, pairwise_loss_terms_backward)

}  // namespace
}  // namespace mfvis
