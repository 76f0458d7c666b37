// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/host_device.h"

// A small map is enlarged by linear interpolation, first along x, then along y, and compared with a limit.
// Both axes are described by taps into "lines": the map's rows (columns), repeated beyond the end, or, of a
// map pasted into a box, with one line of zeros before them and zeros behind (line 1 is row 0).
namespace instseg::kernels {

/** How one output mixes the lines a, b, c from `start` on: a + (second * (b - a) + third * (c - a)), so that
 * flat areas keep their value exactly. */
struct PasteTap {
  int32_t start;
  float second, third;
};

INSTSEG_HD float paste_mix(float a, float b, float second) { return add_rn(a, mul_rn(second, sub_rn(b, a))); }
INSTSEG_HD float paste_mix(float a, float b, float c, float second, float third) {
  return add_rn(a, add_rn(mul_rn(second, sub_rn(b, a)), mul_rn(third, sub_rn(c, a))));
}

/** One axis of a box: outputs begin..end-1 lie in it, output i's place among the lines is linear in i. */
struct BoxAxis {
  double low, scale;
  int64_t begin, end, cells;
};

/** Nothing lies in a box without extent or with a bound that is not finite. */
INSTSEG_HD BoxAxis box_axis(float low, float high, int64_t cells, int64_t size) {
  const double extent = static_cast<double>(high) - static_cast<double>(low);
  if (!(extent > 0) || !(extent < 1e30)) return {0, 0, 0, 0, cells};
  const double first = floor(static_cast<double>(low)) - 1, last = ceil(static_cast<double>(high)) + 1;
  const auto most = static_cast<double>(size);
  const auto begin = static_cast<int64_t>(first > 0 ? (first < most ? first : most) : 0);
  const auto end = static_cast<int64_t>(last < most ? last : most);
  return {low, static_cast<double>(cells) / extent, begin, end > begin ? end : begin, cells};
}

/** (i + 0.5 - low) * scale - 0.5 in cells; zeros on both sides. */
INSTSEG_HD PasteTap box_tap(const BoxAxis& axis, int64_t output) {
  const double center = static_cast<double>(output) + 0.5;
  const double line = add_rn(mul_rn(center - axis.low, axis.scale), 0.5);  // -0.5 + 1: line 0 is a zero
  if (!(line > 0)) return {0, 0.0f, 0.0f};
  const auto last = static_cast<int32_t>(axis.cells + 1);
  if (line >= static_cast<double>(last)) return {last, 0.0f, 0.0f};
  const auto start = static_cast<int32_t>(line);
  return {start, static_cast<float>(line - static_cast<double>(start)), 0.0f};
}

/** A map [height, width] and what lies around it. */
struct PasteMap {
  const float* values;
  int64_t height, width;
  bool zero_border;  // false: the last row and column go on
};

/** Taps, in rising order of their start, of outputs begin..end-1 of `size`; the others are outside. */
struct PasteAxis {
  const PasteTap* taps;  // taps[0] belongs to `begin`
  int64_t begin, end, size;
};

/** Buffers that paste_runs_cpu keeps between calls. */
struct PasteScratch {
  std::vector<float> row_max, column_max, lines, mixed;
  std::vector<uint8_t> inside, outside, straddles;
  std::vector<int64_t> first;
};

/**
 * Run lengths of the pixels > `limit`, down the columns from left to right, zeros first. `lines_per_tap` is 2
 * when no tap has a `third`, else 3.
 */
void paste_runs_cpu(const PasteMap& map, const PasteAxis& x, const PasteAxis& y, int lines_per_tap,
                    float limit, PasteScratch& scratch, std::vector<uint32_t>& counts);

/** Maps [masks, height, width] on a device, and where they go. */
struct PasteJob {
  const float* values;
  int64_t masks, height, width;
  int64_t out_height, out_width;
  const PasteTap *x, *y;  // [out_width], [out_height] on the device, the same for all masks; or
  const float* boxes;     // [masks, 4] on the device, one box each
  int lines_per_tap;      // 2 or 3; 2 with boxes
  float limit;
};

/** bitmaps [masks, out_height, out_width], 0 or 1. */
void paste_bitmaps_cuda(const PasteJob& job, uint8_t* bitmaps, void* stream);

/** counts [masks, out_width]: how often the value changes in each column, reading on from the column before.
 */
void paste_count_cuda(const PasteJob& job, int32_t* counts, void* stream);

/** Writes the places of these changes, x * out_height + y of each mask; `ends` is the running sum of counts.
 */
void paste_places_cuda(const PasteJob& job, const int64_t* ends, uint32_t* places, void* stream);

}  // namespace instseg::kernels
