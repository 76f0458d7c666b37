// SPDX-License-Identifier: Apache-2.0
#include "kernels/points_nms.h"

#include <algorithm>

#include "kernels/above.h"

namespace instseg::kernels {
namespace {

constexpr int64_t kBlock = 64;

// Whether `score` is no smaller than the sigmoid at another cell; false for NaN there.
bool reaches(const GridView& view, float score, int64_t label, int64_t row, int64_t column) {
  if (row < 0 || column < 0) return true;
  const int64_t cell = row * view.width + column, cells = view.height * view.width;
  return score >=
         sigmoid(view.logits[view.channels_last ? cell * view.classes + label : label * cells + cell]);
}

}  // namespace

std::vector<GridCandidate> points_nms_cpu(const GridView& view, double threshold) {
  std::vector<GridCandidate> found;
  const float bound = logit_bound(threshold);
  const int64_t cells = view.height * view.width, size = view.classes * cells;
  const int64_t inner = view.channels_last ? view.classes : cells;
  for (int64_t block = 0; block < size; block += kBlock) {
    const int64_t stop = std::min(block + kBlock, size);
    if (!any_above_float(view.logits + block, stop - block, bound)) continue;
    for (int64_t i = block; i < stop; ++i) {
      if (!(view.logits[i] > bound)) continue;
      const float score = sigmoid(view.logits[i]);
      if (!(static_cast<double>(score) > threshold)) continue;
      const int64_t cell = view.channels_last ? i / inner : i % inner;
      const int64_t label = view.channels_last ? i % inner : i / inner;
      const int64_t row = cell / view.width, column = cell % view.width;
      if (reaches(view, score, label, row - 1, column) && reaches(view, score, label, row, column - 1) &&
          reaches(view, score, label, row - 1, column - 1)) {
        found.push_back({cell, label, score});
      }
    }
  }
  if (!view.channels_last) {
    std::sort(found.begin(), found.end(), [](const GridCandidate& a, const GridCandidate& b) {
      return a.cell != b.cell ? a.cell < b.cell : a.label < b.label;
    });
  }
  return found;
}

}  // namespace instseg::kernels
