// One thread per output pixel. A block processes a row, so that reads and writes are in order:
//
//   images [3, H, W]   rows d·y .. d·y + d - 1      x x x x | x x x x | x x x x      d = downsample
//                                                      \         |         /
//   lab    [3, H / d, W / d]   row y                   t0        t1       t2
//
// Floor: memory bandwidth, as every pixel is read once: for uint8, 3·d² bytes read and 12 written per output pixel. The
// roots take some 150 operations.
#include "../../common/cuda.h"
#include "../../common/lab.h"
#include "../rgb_to_lab.h"

namespace mfvis {
namespace {

constexpr int threads = 128;
constexpr int64_t max_blocks_y = 65535;

template <typename T>
__device__ float block_mean(const T* corner, int64_t width, int64_t downsample) {
  Compute<T> sum = 0;
  for (int64_t dy = 0; dy < downsample; ++dy) {
    for (int64_t dx = 0; dx < downsample; ++dx) sum += load(corner[dy * width + dx]);
  }
  return static_cast<float>(sum * (1 / (255 * static_cast<Compute<T>>(downsample * downsample))));
}

template <typename T>
__global__ void __launch_bounds__(threads) convert(RgbToLab args) {
  const int64_t out_height = args.height / args.downsample, out_width = args.width / args.downsample;
  const int64_t in_plane = args.height * args.width, out_plane = out_height * out_width;
  for (int64_t row = blockIdx.x; row < args.count * out_height; row += gridDim.x) {
    const int64_t image = row / out_height, y = row - image * out_height;
    const T* const from = static_cast<const T*>(args.images) + image * 3 * in_plane + y * args.downsample * args.width;
    float* const to = args.lab + image * 3 * out_plane + y * out_width;
    for (int64_t x = blockIdx.y * threads + threadIdx.x; x < out_width; x += gridDim.y * threads) {
      float color[3];
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        color[c] = block_mean(from + c * in_plane + x * args.downsample, args.width, args.downsample);
      }
      lab_of(color[0], color[1], color[2], to[x], to[out_plane + x], to[2 * out_plane + x]);
    }
  }
}

void rgb_to_lab(const RgbToLab& args) {
  const int64_t out_height = args.height / args.downsample, out_width = args.width / args.downsample;
  const int64_t across = ceil_div(out_width, threads);
  dim3 grid = grid_for(args.count * out_height, 1);
  grid.y = static_cast<unsigned>(min(across, max_blocks_y));
  with_image_type(args.dtype,
                  [&](auto element) { launch("rgb_to_lab", convert<decltype(element)>, grid, threads, 0, args); });
}

MFVIS_CUDA_KERNEL(rgb_to_lab_kernel, rgb_to_lab)

}  // namespace
}  // namespace mfvis
