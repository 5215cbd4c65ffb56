// The matches of a clip whose weight is not 0. Most of the k nearest patches of a pixel are too far away to have a
// weight, and all instances and decoder layers of a video share the rest. So the matches of the frame pairs are read
// once and those with a weight are listed, pixel by pixel. Each pass makes its own lists: from the same boxes as it
// visits, and at the cost of a few percent of one decoder layer. Every block of rows owns a part of the lists, large
// enough for all of its matches, and fills it from the front: the memory that it does not need is never touched.
//
//   match    B x P x H x W·K       a match, an index into the source's plane, and its weight: 8 bytes
//   target   B x P x H x W·K       the pixel whose match it is, an index into the target's plane
//   start    B x P x H x (W + 1)   where the matches of a pixel begin in its block's part of the lists
#pragma once

#include "../../common/arithmetic.h"
#include "../../common/box.h"
#include "../../common/math.h"
#include "../../common/memory.h"
#include "../../common/parallel.h"
#include "../../common/scratch.h"
#include "../search_window.h"
#include "../tk_loss.h"

namespace mfvis {
namespace {

// A match as one 64-bit value, which is cheaper to move: the pixel in the source plane below, the weight above.
MFVIS_HOST_DEVICE uint64_t match_of(int32_t source, float weight) {
  return static_cast<uint64_t>(bits_as<uint32_t>(weight)) << 32 | static_cast<uint32_t>(source);
}
MFVIS_HOST_DEVICE int32_t source_of(uint64_t match) { return static_cast<int32_t>(match); }
MFVIS_HOST_DEVICE float weight_of(uint64_t match) { return bits_as<float>(static_cast<uint32_t>(match >> 32)); }
MFVIS_HOST_DEVICE bool has_weight(uint64_t match) { return match >> 32 << 33 != 0; }  // -0 has none

// The matches of the pixels x, x + 1, ... of row y; weight 0 where there is none.
void read_matches(const SearchWindow& window, const int16_t* offset, const float* weight, int64_t y, int64_t x,
                  int64_t size, uint64_t* __restrict matches) {
  const int32_t first_y = static_cast<int32_t>(y), first_x = static_cast<int32_t>(x);
#pragma omp simd
  for (int32_t i = 0; i < static_cast<int32_t>(size); ++i) {
    const int32_t source = window.source(offset[i], first_y, first_x + i);
    matches[i] = match_of(source, source >= 0 ? weight[i] : 0.0f);
  }
}

// For each row of a video the columns from the first to the last that is inside a box of the video's instances.
struct Columns {
  explicit Columns(const TkLoss& args) : height(args.height), spans(args.videos * args.height) {
    for (int64_t row = 0; row < args.videos * height; ++row) spans[row] = {args.width, 0};
    for (int64_t n = 0; n < args.instances; ++n) {
      Span* const of_video = spans + args.video_index[n] * height;
      for (int64_t t = 0; t < args.frames; ++t) {
        const float* box = args.boxes + (n * args.frames + t) * 4;
        if (!box_is_present(box)) continue;
        const Span rows = pixels_inside(box[1], box[3], height), inside = pixels_inside(box[0], box[2], args.width);
        for (int64_t y = rows.begin; y < rows.end; ++y) of_video[y] = around(of_video[y], inside);
      }
    }
  }

  Span of(int64_t video, int64_t y) const { return spans[video * height + y]; }

 private:
  static Span around(Span a, Span b) { return {min(a.begin, b.begin), max(a.end, b.end)}; }

  int64_t height;
  Scratch<Span> spans;
};

// The lists of all videos and pairs, as drawn above. list = video · P + pair.
struct MatchList {
  explicit MatchList(const TkLoss& args)
      : row_size(args.width * args.matches),
        blocks(ceil_div(args.height, block_rows)),
        height(args.height),
        longest(args.videos * args.pair_count * args.height * row_size),
        memory(longest * 12 + args.videos * args.pair_count * args.height * (args.width + 1) * 4,
               CachedBuffer::Use::sparse),
        match(memory.from<uint64_t>(0)),
        target(memory.from<int32_t>(longest * 8)),
        start(memory.from<int32_t>(longest * 12)) {
    fill(args);
  }

  // The position from which `starts` of row y counts.
  int64_t block_offset(int64_t list, int64_t y) const {
    return (list * height + y / block_rows * block_rows) * row_size;
  }
  int32_t* starts(int64_t list, int64_t y, int64_t width) const { return start + (list * height + y) * (width + 1); }

  static constexpr int64_t block_rows = 8;
  static constexpr int64_t piece = 64;  // columns read together
  int64_t row_size, blocks, height, longest;
  CachedBuffer memory;
  uint64_t* match;
  int32_t *target, *start;

 private:
  void fill(const TkLoss& args) const {
    const Columns columns(args);
    parallel_for(args.videos * args.pair_count * blocks, 1, [&](int64_t begin, int64_t end) {
      const Scratch<uint64_t> read = Scratch<uint64_t>::unset(piece * args.matches);
      for (int64_t item = begin; item < end; ++item) fill_block(args, columns, item / blocks, item % blocks, read);
    });
  }

  void fill_block(const TkLoss& args, const Columns& columns_of, int64_t list, int64_t block, uint64_t* read) const {
    const int64_t area = args.height * args.width, matches = args.matches, video = list / args.pair_count;
    const int64_t top = block * block_rows, bottom = top + block_rows;
    const SearchWindow window(args.shift ? args.shift + 2 * list : nullptr, args.height, args.width, args.radius,
                              args.dilation);
    int32_t* const targets = target + block_offset(list, top);
    uint64_t* const kept = match + block_offset(list, top);
    int32_t count = 0;
    for (int64_t y = top; y < bottom && y < args.height; ++y) {
      const Span columns = columns_of.of(video, y);
      if (columns.begin >= columns.end) continue;
      int32_t* const starts_of_row = starts(list, y, args.width);
      for (int64_t x = columns.begin, end; x < columns.end; x = end) {
        end = min(x + piece, columns.end);
        const int64_t size = end - x, own = y * args.width + x;
        int64_t filled = 0;  // where textures differ, few k have any match with a weight
        for (int64_t k = 0; k < matches; ++k) {
          const int64_t at = (list * matches + k) * area + own;
          if (!any_has_weight(args.weight + at, size)) continue;
          read_matches(window, args.offset + at, args.weight + at, y, x, size, read + size * filled++);
        }
        count = keep(read, size, filled, static_cast<int32_t>(own), count, starts_of_row + x, targets, kept);
      }
      starts_of_row[columns.end] = count;
    }
  }

  static bool any_has_weight(const float* weight, int64_t size) {
    int any = 0;
#pragma omp simd reduction(| : any)
    for (int64_t i = 0; i < size; ++i) any |= weight[i] != 0;
    return any;
  }

  // Appends those of the matches `read`, [k, size], of the pixels own, own + 1, ... that have a weight. Returns their
  // number so far. Not inlined: among its caller's many variables the loop would run out of registers.
  __attribute__((noinline)) static int32_t keep(const uint64_t* __restrict read, int64_t size, int64_t matches,
                                                int32_t own, int32_t count, int32_t* __restrict starts,
                                                int32_t* __restrict targets, uint64_t* __restrict kept) {
    for (int64_t i = 0; i < size; ++i) {
      starts[i] = count;
      for (const uint64_t *at = read + i, *const end = at + matches * size; at < end; at += size) {
        targets[count] = own + static_cast<int32_t>(i);  // always written, kept only if it has a weight
        kept[count] = *at;
        count += has_weight(*at);
      }
    }
    return count;
  }
};

}  // namespace
}  // namespace mfvis
