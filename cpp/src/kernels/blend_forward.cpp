// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/blend.h"
#include "kernels/blend_instance.h"
#include "kernels/isa.h"

namespace instseg::kernels {
namespace {

// Samples are monotonous along an axis, so those on the map are neighbours.
IndexRange fill_axis(float low, float high, const BlendInput& in, int64_t cells,
                     std::vector<LinearTap<float>>& taps) {
  IndexRange range{in.size, 0};
  for (int64_t i = 0; i < in.size; ++i) {
    taps[i] = roi_tap(low, high, in.scale, i, in.size, cells);
    if (taps[i].index0 < 0) continue;
    range.begin = std::min(range.begin, i);
    range.end = i + 1;
  }
  return range;
}

template <int64_t kChannels>
[[gnu::always_inline]] inline void blend_rows_of(BlendInstance& it, float* logits) {
  widen(it);
  for (int64_t row = it.rows.begin; row < it.rows.end; ++row) {
    if constexpr (kChannels == 4) {
      softmax_row_of_four(it, row);
    } else {
      softmax_row(it, row);
    }
    sample_row<kChannels>(it, row);
    logits_row<kChannels>(it, logits + row * it.in.size);
  }
}

}  // namespace

BlendInstance::BlendInstance(const BlendInput& input)
    : in(input),
      x(in.size),
      y(in.size),
      up(in.size),
      wide(in.channels * in.cells * in.size),
      weights(in.channels * in.size),
      peak(in.size),
      share(in.size),
      samples(in.channels * in.size),
      mixed(in.size * in.channels),
      line(in.width * in.channels) {
  for (int64_t i = 0; i < in.size; ++i) up[i] = attention_tap(i, in.size, in.cells);
}

bool BlendInstance::locate(int64_t n) {
  image = in.image[n];
  if (image < 0 || image >= in.images) return false;
  const float* box = in.boxes + 4 * n;
  map = in.bases + image * in.height * in.width * in.channels;
  attention = in.attention + n * in.channels * in.cells * in.cells;
  rows = fill_axis(box[1], box[3], in, in.height, y);
  if (rows.begin >= rows.end) return false;
  columns = fill_axis(box[0], box[2], in, in.width, x);
  if (columns.begin >= columns.end) return false;
  const auto &left = x[columns.begin],
             &right = x[columns.end - 1];  // the other way round for negative widths
  cells = {std::min(left.index0, right.index0), std::max(left.index1, right.index1) + 1};
  return true;
}

INSTSEG_CLONES void blend_rows(BlendInstance& it, float* logits) {
  if (it.in.channels == 4) return blend_rows_of<4>(it, logits);
  blend_rows_of<0>(it, logits);
}

void blend_cpu(const BlendInput& in, int64_t begin, int64_t end, float* logits) {
  BlendInstance it(in);
  const int64_t plane = in.size * in.size;
  for (int64_t n = begin; n < end; ++n) {
    std::fill_n(logits + n * plane, plane, 0.0f);
    if (it.locate(n)) blend_rows(it, logits + n * plane);
  }
}

}  // namespace instseg::kernels
