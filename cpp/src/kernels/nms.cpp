// SPDX-License-Identifier: Apache-2.0
#include "kernels/nms.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/isa.h"

namespace instseg::kernels {
namespace {

// Boxes of one class, one array per coordinate so that the inner loop vectorizes.
struct BoxColumns {
  std::vector<float> x1, y1, x2, y2, area;
  std::vector<int32_t> dead;

  void assign(const float* boxes, const uint32_t* first, int64_t count) {
    for (auto* column : {&x1, &y1, &x2, &y2, &area}) column->resize(count);
    dead.assign(count, 0);
    for (int64_t i = 0; i < count; ++i) {
      const float* box = boxes + 4 * static_cast<int64_t>(first[i]);
      x1[i] = box[0];
      y1[i] = box[1];
      x2[i] = box[2];
      y2[i] = box[3];
      area[i] = (box[2] - box[0]) * (box[3] - box[1]);
    }
  }
};

// Sorts ascending for descending scores; NaN last.
uint32_t descending_key(float score) {
  if (std::isnan(score)) return ~uint32_t{0};
  const uint32_t bits = std::bit_cast<uint32_t>(score == 0.0f ? 0.0f : score);
  return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

std::vector<uint32_t> score_order(const float* scores, int64_t n) {
  std::vector<uint64_t> keys(n);
  for (int64_t i = 0; i < n; ++i) keys[i] = static_cast<uint64_t>(descending_key(scores[i])) << 32 | i;
  std::sort(keys.begin(), keys.end());
  std::vector<uint32_t> order(n);
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<uint32_t>(keys[i]);
  return order;
}

}  // namespace

// Marks boxes i+1..n-1 that overlap box i too much. The order of operations is torchvision's.
INSTSEG_CLONES_NO_FMA void nms_suppress(const float* __restrict x1, const float* __restrict y1,
                                        const float* __restrict x2, const float* __restrict y2,
                                        const float* __restrict area, int32_t* __restrict dead, int64_t i,
                                        int64_t n, float threshold) {
  const float ax1 = x1[i], ay1 = y1[i], ax2 = x2[i], ay2 = y2[i], a = area[i];
  for (int64_t j = i + 1; j < n; ++j) {
    const float left = ax1 > x1[j] ? ax1 : x1[j];
    const float top = ay1 > y1[j] ? ay1 : y1[j];
    const float right = ax2 < x2[j] ? ax2 : x2[j];
    const float bottom = ay2 < y2[j] ? ay2 : y2[j];
    const float width = right - left > 0.0f ? right - left : 0.0f;
    const float height = bottom - top > 0.0f ? bottom - top : 0.0f;
    const float inter = width * height;
    dead[j] |= inter / (a + area[j] - inter) > threshold;
  }
}

std::vector<int64_t> nms_cpu(const float* boxes, const float* scores, const int64_t* labels, int64_t n,
                             float iou_threshold) {
  const std::vector<uint32_t> order = score_order(scores, n);
  // Ranks grouped by label, by descending score within a label.
  std::vector<uint32_t> ranks(n);
  for (int64_t i = 0; i < n; ++i) ranks[i] = static_cast<uint32_t>(i);
  auto label = [&](uint32_t rank) { return labels ? labels[order[rank]] : int64_t{0}; };
  if (labels) {
    std::sort(ranks.begin(), ranks.end(), [&](uint32_t a, uint32_t b) {
      const int64_t la = label(a), lb = label(b);
      return la != lb ? la < lb : a < b;
    });
  }
  std::vector<uint32_t> members;
  std::vector<char> kept(n, 0);
  BoxColumns columns;
  for (int64_t begin = 0, end = 0; begin < n; begin = end) {
    members.clear();
    for (end = begin; end < n && label(ranks[end]) == label(ranks[begin]); ++end) {
      members.push_back(order[ranks[end]]);
    }
    const int64_t count = end - begin;
    columns.assign(boxes, members.data(), count);
    for (int64_t i = 0; i < count; ++i) {
      if (columns.dead[i]) continue;
      kept[ranks[begin + i]] = 1;
      nms_suppress(columns.x1.data(), columns.y1.data(), columns.x2.data(), columns.y2.data(),
                   columns.area.data(), columns.dead.data(), i, count, iou_threshold);
    }
  }
  std::vector<int64_t> keep;
  for (int64_t rank = 0; rank < n; ++rank) {
    if (kept[rank]) keep.push_back(order[rank]);
  }
  return keep;
}

}  // namespace instseg::kernels
