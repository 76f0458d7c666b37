// SPDX-License-Identifier: Apache-2.0
#include "evaluation/coco_accumulate.h"

#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "evaluation/coco_match.h"

namespace instseg {
namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();  // precision of nothing is 0 / epsilon

/** Where a detection of the merged list comes from. */
struct Entry {
  double score;
  const CocoRecord* record;
  size_t rank;
};

/** All detections of a class, the best first; equal scores in the order of images, then of the image. */
std::vector<Entry> sorted(const std::vector<const CocoRecord*>& records) {
  std::vector<Entry> entries;
  for (const CocoRecord* record : records) {
    for (size_t i = 0; i < record->scores.size(); ++i) entries.push_back({record->scores[i], record, i});
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.score > b.score; });
  return entries;
}

/** Scratch memory of one curve. */
struct Curve {
  std::vector<double> recall, precision;
};

/** Recall and precision behind every detection of one area, limit and threshold. */
void trace(const std::vector<Entry>& entries, int64_t area, int64_t threshold, double objects, Curve& curve) {
  double right = 0, wrong = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const CocoRecord& record = *entries[i].record;
    const size_t at = static_cast<size_t>(area) * record.scores.size() + entries[i].rank;
    const bool counts = !(record.ignored[at] >> threshold & 1), hit = record.matched[at] >> threshold & 1;
    right += counts && hit;
    wrong += counts && !hit;
    curve.recall[i] = right / objects;
    curve.precision[i] = right / (wrong + right + kEpsilon);
  }
  for (size_t i = entries.size(); i-- > 1;)
    curve.precision[i - 1] = std::max(curve.precision[i - 1], curve.precision[i]);
}

/** Strides of the results. */
struct Shape {
  int64_t classes, limits;
  int64_t at(int64_t threshold, int64_t label, int64_t area, int64_t limit) const {
    return ((threshold * classes + label) * kCocoAreas + area) * limits + limit;
  }
  int64_t at(int64_t threshold, int64_t recall, int64_t label, int64_t area, int64_t limit) const {
    return at(threshold * static_cast<int64_t>(coco_recall_points().size()) + recall, label, area, limit);
  }
};

struct Outputs {
  Shape shape;
  double *precision, *recall, *scores;
};

/** Curves of one class, area and limit. */
void write_curves(const std::vector<Entry>& entries, int64_t label, int64_t area, int64_t limit,
                  double objects, Curve& curve, const Outputs& out) {
  const auto& points = coco_recall_points();
  for (size_t t = 0; t < coco_iou_thresholds().size(); ++t) {
    trace(entries, area, static_cast<int64_t>(t), objects, curve);
    const auto threshold = static_cast<int64_t>(t);
    out.recall[out.shape.at(threshold, label, area, limit)] =
        entries.empty() ? 0 : curve.recall[entries.size() - 1];
    size_t at = 0;
    for (size_t r = 0; r < points.size(); ++r) {
      while (at < entries.size() && curve.recall[at] < points[r]) ++at;
      const int64_t place = out.shape.at(threshold, static_cast<int64_t>(r), label, area, limit);
      out.precision[place] = at < entries.size() ? curve.precision[at] : 0;
      out.scores[place] = at < entries.size() ? entries[at].score : 0;
    }
  }
}

}  // namespace

CocoCurves accumulate(const std::vector<std::vector<const CocoRecord*>>& records,
                      const std::vector<int64_t>& limits) {
  const auto classes = static_cast<int64_t>(records.size()), kinds = static_cast<int64_t>(limits.size());
  const auto thresholds = static_cast<int64_t>(coco_iou_thresholds().size());
  const auto points = static_cast<int64_t>(coco_recall_points().size());
  CocoCurves curves{at::full({thresholds, points, classes, kCocoAreas, kinds}, -1.0, at::kDouble),
                    at::full({thresholds, classes, kCocoAreas, kinds}, -1.0, at::kDouble),
                    at::full({thresholds, points, classes, kCocoAreas, kinds}, -1.0, at::kDouble),
                    at::zeros({classes, kCocoAreas}, at::kLong)};
  const Outputs out{{classes, kinds},
                    curves.precision.mutable_data_ptr<double>(),
                    curves.recall.mutable_data_ptr<double>(),
                    curves.scores.mutable_data_ptr<double>()};
  auto* objects = curves.objects.mutable_data_ptr<int64_t>();
  at::parallel_for(0, classes, 1, [&](int64_t begin, int64_t end) {
    Curve curve;
    for (int64_t label = begin; label < end; ++label) {
      for (const CocoRecord* record : records[label]) {
        for (int64_t a = 0; a < kCocoAreas; ++a) objects[label * kCocoAreas + a] += record->objects[a];
      }
      const std::vector<Entry> all = sorted(records[label]);
      curve.recall.resize(all.size());
      curve.precision.resize(all.size());
      for (int64_t m = 0; m < kinds; ++m) {
        std::vector<Entry> counted;
        std::copy_if(all.begin(), all.end(), std::back_inserter(counted),
                     [&](const Entry& entry) { return static_cast<int64_t>(entry.rank) < limits[m]; });
        for (int64_t a = 0; a < kCocoAreas; ++a) {
          const int64_t present = objects[label * kCocoAreas + a];
          if (present > 0) write_curves(counted, label, a, m, static_cast<double>(present), curve, out);
        }
      }
    }
  });
  return curves;
}

}  // namespace instseg
