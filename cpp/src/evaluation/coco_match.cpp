// SPDX-License-Identifier: Apache-2.0
#include "evaluation/coco_match.h"

#include <algorithm>
#include <array>

namespace instseg {
namespace {

struct Range {
  double low, high;  // px^2, both included
  bool excludes(double area) const { return area < low || area > high; }
};

constexpr std::array<Range, kCocoAreas> kRanges{
    {{0, 1e10}, {0, 32.0 * 32}, {32.0 * 32, 96.0 * 96}, {96.0 * 96, 1e10}}};

// IoU never counts as perfect by rounding alone.
constexpr double kHighest = 1 - 1e-10;

/** An object that a detection overlaps enough for the lowest threshold. */
struct Candidate {
  int64_t object;
  double iou;
};

using Candidates = std::vector<std::vector<Candidate>>;  // of each detection, in file order

Candidates candidates_of(const CocoPair& pair) {
  const size_t n = pair.scores.size(), objects = pair.crowd.size();
  Candidates out(n);
  for (size_t d = 0; d < n; ++d) {
    for (size_t g = 0; g < objects; ++g) {
      const double iou = pair.iou[d * objects + g];
      if (iou >= coco_iou_thresholds()[0]) out[d].push_back({static_cast<int64_t>(g), iou});
    }
  }
  return out;
}

/** The object a detection takes, or -1. `order`: its candidates, those that count first. */
int64_t best_object(const std::vector<Candidate>& order, double threshold, const std::vector<uint8_t>& used,
                    const std::vector<uint8_t>& ignore, const std::vector<uint8_t>& crowd) {
  double best = std::min(threshold, kHighest);
  int64_t found = -1;
  for (const Candidate& candidate : order) {
    const int64_t g = candidate.object;
    if (used[g] && !crowd[g]) continue;
    if (found >= 0 && !ignore[found] && ignore[g]) break;  // never gives up an object that counts
    if (candidate.iou < best) continue;
    best = candidate.iou;
    found = g;
  }
  return found;
}

void match_area(const CocoPair& pair, Candidates candidates, const Range& range, uint16_t* matched,
                uint16_t* ignored) {
  const size_t objects = pair.crowd.size();
  std::vector<uint8_t> ignore(objects), used(objects);
  for (size_t g = 0; g < objects; ++g) ignore[g] = pair.crowd[g] || range.excludes(pair.true_areas[g]);
  for (auto& order : candidates) {
    std::stable_partition(order.begin(), order.end(),
                          [&](const Candidate& candidate) { return !ignore[candidate.object]; });
  }
  const auto& thresholds = coco_iou_thresholds();
  for (size_t t = 0; t < thresholds.size(); ++t) {
    const auto bit = static_cast<uint16_t>(1 << t);
    std::fill(used.begin(), used.end(), 0);
    for (size_t d = 0; d < pair.scores.size(); ++d) {
      const int64_t g = best_object(candidates[d], thresholds[t], used, ignore, pair.crowd);
      if (g >= 0) {
        used[g] = 1;
        matched[d] |= bit;
      }
      if (g >= 0 ? ignore[g] : range.excludes(pair.areas[d])) ignored[d] |= bit;
    }
  }
}

}  // namespace

CocoRecord match(int64_t label, const CocoPair& pair) {
  CocoRecord record{label, {}, pair.scores, {}, {}};
  const size_t n = pair.scores.size();
  record.matched.resize(kCocoAreas * n);
  record.ignored.resize(kCocoAreas * n);
  const Candidates candidates = candidates_of(pair);
  for (int64_t a = 0; a < kCocoAreas; ++a) {
    for (size_t g = 0; g < pair.crowd.size(); ++g)
      record.objects[a] += !pair.crowd[g] && !kRanges[a].excludes(pair.true_areas[g]);
    match_area(pair, candidates, kRanges[a], record.matched.data() + a * n, record.ignored.data() + a * n);
  }
  return record;
}

}  // namespace instseg
