// SPDX-License-Identifier: Apache-2.0
#include "kernels/mask_reduce.h"

#include <algorithm>

#include "kernels/isa.h"
#include "kernels/resize.h"

namespace instseg::kernels {
namespace {

// Which of its four pixels are inside, for one output.
enum Corner : uint8_t { kTopLeft = 1, kTopRight = 2, kBottomLeft = 4, kBottomRight = 8 };

// Outputs begin..end-1 along one axis.
struct Outputs {
  int32_t begin, end;
  Outputs(const std::vector<int32_t>& first, int64_t from, int64_t to) : begin(first[from]), end(first[to]) {}
};

void mark(const Outputs& rows, const Outputs& columns, uint8_t corner, int64_t pitch, uint8_t* out) {
  for (int64_t x = columns.begin; x < columns.end; ++x) {
    uint8_t* target = out + rows.begin * pitch + x;
    for (int64_t y = rows.begin; y < rows.end; ++y, target += pitch) *target |= corner;
  }
}

// Replaces corners by values; the roundings are those of OpenCV's two passes over uint8.
INSTSEG_CLONES_NO_FMA void mix_corners(const int32_t* left, const int32_t* right, int32_t top, int32_t bottom,
                                       int64_t size, uint8_t* out) {
  for (int64_t x = 0; x < size; ++x) {
    const int32_t corners = out[x];
    const int32_t above = (left[x] * (corners & 1) + right[x] * (corners >> 1 & 1)) >> 4;
    const int32_t below = (left[x] * (corners >> 2 & 1) + right[x] * (corners >> 3)) >> 4;
    out[x] = static_cast<uint8_t>(((top * above >> 16) + (bottom * below >> 16) + 2) >> 2);
  }
}

}  // namespace

ReduceAxis reduce_axis(int64_t in, int64_t factor) {
  const int64_t out = (in + factor / 2) / factor;
  ReduceAxis axis;
  axis.first0.resize(in + 1);
  axis.first1.resize(in + 1);
  if (out == 0) return axis;
  const auto taps = opencv_axis(in, out);
  for (const auto& tap : taps) {
    axis.weight0.push_back(tap.weight0);
    axis.weight1.push_back(tap.weight1);
  }
  int32_t next0 = 0, next1 = 0;
  for (int64_t x = 0; x <= in; ++x) {
    while (next0 < out && taps[next0].index0 < x) ++next0;
    while (next1 < out && taps[next1].index1 < x) ++next1;
    axis.first0[x] = next0;
    axis.first1[x] = next1;
  }
  return axis;
}

Extent extent(const Runs& runs, int64_t height) {
  Extent box{height, 0, runs.front().begin / height, (runs.back().end - 1) / height + 1};
  for (const Run& run : runs) {
    const int64_t column = run.begin / height * height;
    const bool turns = run.end > column + height;  // goes on at the top of the next column
    box.top = turns ? 0 : std::min(box.top, run.begin - column);
    box.bottom = turns ? height : std::max(box.bottom, run.end - column);
  }
  return box;
}

void reduce_mask(const Runs& runs, int64_t height, const Extent& extent, const ReduceAxis& rows,
                 const ReduceAxis& columns, int64_t pitch, uint8_t* out) {
  for_each_piece(runs, height, [&](int64_t x, int64_t y0, int64_t y1) {
    const Outputs left(columns.first0, x, x + 1), right(columns.first1, x, x + 1);
    if (left.begin == left.end && right.begin == right.end) return;  // most columns lie between the taps
    const Outputs upper(rows.first0, y0, y1), lower(rows.first1, y0, y1);
    mark(upper, left, kTopLeft, pitch, out);
    mark(upper, right, kTopRight, pitch, out);
    mark(lower, left, kBottomLeft, pitch, out);
    mark(lower, right, kBottomRight, pitch, out);
  });
  // The second pixel of an output is its first or a later one.
  const int64_t begin = columns.first1[extent.left], end = columns.first0[extent.right];
  for (int64_t y = rows.first1[extent.top]; y < rows.first0[extent.bottom]; ++y) {
    mix_corners(columns.weight0.data() + begin, columns.weight1.data() + begin, rows.weight0[y],
                rows.weight1[y], end - begin, out + y * pitch + begin);
  }
}

}  // namespace instseg::kernels
