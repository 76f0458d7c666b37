// SPDX-License-Identifier: Apache-2.0
#include "kernels/fcos_decode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/above.h"
#include "kernels/cpu_scalar.h"
#include "kernels/isa.h"

namespace instseg::kernels {

// Most blocks hold no candidate: one vectorized comparison skips them.
INSTSEG_CLONES bool any_above_float(const float* values, int64_t n, float bound) {
  int32_t any = 0;
  for (int64_t i = 0; i < n; ++i) any |= values[i] > bound;
  return any != 0;
}

INSTSEG_CLONES bool any_above_bfloat16(const uint16_t* values, int64_t n, float bound) {
  int32_t any = 0;
  for (int64_t i = 0; i < n; ++i) any |= std::bit_cast<float>(static_cast<uint32_t>(values[i]) << 16) > bound;
  return any != 0;
}

INSTSEG_CLONES void running_max(const float* values, int64_t n, float* best) {
  for (int64_t i = 0; i < n; ++i) best[i] = values[i] > best[i] ? values[i] : best[i];
}

namespace {

constexpr int64_t kBlock = 64;

bool any_above(const float* values, int64_t n, float bound) { return any_above_float(values, n, bound); }

bool any_above(const c10::BFloat16* values, int64_t n, float bound) {
  return any_above_bfloat16(reinterpret_cast<const uint16_t*>(values), n, bound);
}

bool any_above(const c10::Half* values, int64_t n, float bound) {
  return std::any_of(values, values + n, [&](c10::Half value) { return static_cast<float>(value) > bound; });
}

float score_of(const DecodeRule& rule, float product) {
  return rule.sqrt_score ? std::sqrt(product) : product;
}

// A logit at or below this cannot pass: p*c <= p.
float bound_of(const DecodeRule& rule) {
  const double threshold = rule.threshold;
  const bool root = rule.on == ThresholdOn::score && rule.sqrt_score;
  return logit_bound(root ? threshold * threshold : threshold);
}

bool passes(const DecodeRule& rule, float p, float product) {
  if (rule.on == ThresholdOn::class_probability) return p > rule.threshold;
  if (rule.on == ThresholdOn::product) return product > rule.threshold;
  return score_of(rule, product) > rule.threshold;
}

template <class T>
std::vector<float> max_logits(const T* logits, const DecodeView& view) {
  const int64_t cells = view.cells(), outer = view.channels_last ? cells : view.classes;
  const int64_t inner = view.channels_last ? view.classes : cells;
  std::vector<float> best(cells, -std::numeric_limits<float>::infinity()), line(inner);
  for (int64_t i = 0; i < outer; ++i) {
    std::transform(logits + i * inner, logits + (i + 1) * inner, line.begin(),
                   [](T value) { return static_cast<float>(value); });
    if (view.channels_last) {
      for (float value : line) best[i] = value > best[i] ? value : best[i];
    } else {
      running_max(line.data(), inner, best.data());
    }
  }
  return best;
}

template <class T>
void scan(const T* logits, const DecodeView& view, const DecodeRule& rule, const float* centerness,
          const char* allowed, int64_t begin, int64_t end, std::vector<Candidate>& out) {
  const float bound = bound_of(rule);
  const int64_t inner = view.channels_last ? view.classes : view.cells();
  for (int64_t block = begin; block < end; block += kBlock) {
    const int64_t stop = std::min(block + kBlock, end);
    if (!any_above(logits + block, stop - block, bound)) continue;
    for (int64_t i = block; i < stop; ++i) {
      const float logit = static_cast<float>(logits[i]);
      if (!(logit > bound)) continue;
      const int64_t cell = view.channels_last ? i / inner : i % inner;
      if (allowed && !allowed[cell]) continue;
      const float p = sigmoid(logit), product = p * centerness[cell];
      if (!(product >= 0) || !passes(rule, p, product)) continue;  // a NaN centerness cannot be ranked
      const int64_t label = view.channels_last ? i % inner : i / inner;
      out.push_back({product, static_cast<int32_t>(cell), static_cast<int32_t>(label)});
    }
  }
}

template <class T>
void decode_box(const T* reg, const DecodeView& view, int64_t row, int64_t column, float* box) {
  const T* first = reg + row * view.reg_row + column * view.reg_column;
  float distance[4];
  for (int64_t side = 0; side < 4; ++side) {
    distance[side] = static_cast<float>(first[side * view.reg_channel]) * view.unit;
  }
  const float x = static_cast<float>(column * view.step_x + view.offset);
  const float y = static_cast<float>(row * view.step_y + view.offset);
  box[0] = x - distance[0];
  box[1] = y - distance[1];
  box[2] = x + distance[2];
  box[3] = y + distance[3];
  if (view.clip_width < 0) return;
  for (int64_t k = 0; k < 4; ++k) {
    box[k] = std::clamp(box[k], 0.0f, k % 2 == 0 ? view.clip_width : view.clip_height);
  }
}

}  // namespace

std::vector<float> centerness_cpu(const DecodeView& view) {
  std::vector<float> out(view.cells());
  with_scalar(view.kind, [&]<class T>(T) {
    const T* values = static_cast<const T*>(view.centerness);
    for (int64_t row = 0, cell = 0; row < view.height; ++row) {
      for (int64_t column = 0; column < view.width; ++column, ++cell) {
        const int64_t place = row * view.centerness_row + column * view.centerness_column;
        out[cell] = sigmoid(static_cast<float>(values[place]));
      }
    }
  });
  return out;
}

std::vector<char> best_cells_cpu(const DecodeView& view, const std::vector<float>& centerness,
                                 int64_t count) {
  std::vector<float> product = with_scalar(
      view.kind, [&]<class T>(T) { return max_logits(static_cast<const T*>(view.logits), view); });
  std::vector<int32_t> cells(product.size());
  std::iota(cells.begin(), cells.end(), 0);
  for (int32_t cell : cells) {
    const float value = sigmoid(product[cell]) * centerness[cell];
    product[cell] = value >= 0 ? value : -1.0f;  // NaN ranks last
  }
  count = std::min<int64_t>(count, cells.size());
  std::nth_element(cells.begin(), cells.begin() + count, cells.end(), [&](int32_t a, int32_t b) {
    return product[a] != product[b] ? product[a] > product[b] : a < b;
  });
  std::vector<char> best(cells.size(), 0);
  for (int64_t i = 0; i < count; ++i) best[cells[i]] = 1;
  return best;
}

void find_candidates_cpu(const DecodeView& view, const DecodeRule& rule, const float* centerness,
                         const char* allowed, int64_t begin, int64_t end, std::vector<Candidate>& out) {
  with_scalar(view.kind, [&]<class T>(T) {
    scan(static_cast<const T*>(view.logits), view, rule, centerness, allowed, begin, end, out);
  });
}

void keep_best_cpu(std::vector<Candidate>& candidates, int64_t count) {
  const auto earlier = [](const Candidate& a, const Candidate& b) {
    return a.position != b.position ? a.position < b.position : a.label < b.label;
  };
  if (static_cast<int64_t>(candidates.size()) > count) {
    const auto better = [&](const Candidate& a, const Candidate& b) {
      return a.product != b.product ? a.product > b.product : earlier(a, b);
    };
    std::nth_element(candidates.begin(), candidates.begin() + count, candidates.end(), better);
    candidates.resize(count);
  }
  std::sort(candidates.begin(), candidates.end(), earlier);
}

void decode_boxes_cpu(const DecodeView& view, const DecodeRule& rule,
                      const std::vector<Candidate>& candidates, float* boxes, float* scores, int64_t* labels,
                      int64_t* positions) {
  with_scalar(view.kind, [&]<class T>(T) {
    for (size_t i = 0; i < candidates.size(); ++i) {
      const Candidate& candidate = candidates[i];
      const int64_t row = candidate.position / view.width, column = candidate.position % view.width;
      decode_box(static_cast<const T*>(view.reg), view, row, column, boxes + 4 * i);
      scores[i] = score_of(rule, candidate.product);
      labels[i] = candidate.label;
      positions[i] = candidate.position;
    }
  });
}

}  // namespace instseg::kernels
