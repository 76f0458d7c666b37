// SPDX-License-Identifier: Apache-2.0
#include "instseg/coco_evaluation.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "evaluation/coco_accumulate.h"
#include "evaluation/coco_iou.h"
#include "evaluation/coco_match.h"
#include "instseg/error.h"

namespace instseg {
namespace {

constexpr const char* kAdd = "CocoEvaluation.add";

// Rows of overlaps a thread takes at least.
constexpr int64_t kGrain = 32;

// Equal steps as NumPy's linspace makes them: the last one is exact.
template <size_t N>
std::array<double, N> steps(double first, double last) {
  std::array<double, N> out;
  const double step = (last - first) / static_cast<double>(N - 1);
  for (size_t i = 0; i < N; ++i) out[i] = static_cast<double>(i) * step + first;
  out[N - 1] = last;
  return out;
}

/** Indices of the detections and objects of one class. */
struct Group {
  std::vector<size_t> found, truth;
};

/** By class, detections by descending score and cut to `limit`. */
std::map<int64_t, Group> groups_of(const CocoObjects& truth, const CocoDetections& found, int64_t limit) {
  std::map<int64_t, Group> groups;
  for (size_t g = 0; g < truth.labels.size(); ++g) groups[truth.labels[g]].truth.push_back(g);
  for (size_t d = 0; d < found.labels.size(); ++d) groups[found.labels[d]].found.push_back(d);
  for (auto& [label, group] : groups) {
    std::stable_sort(group.found.begin(), group.found.end(),
                     [&](size_t a, size_t b) { return found.scores[a] > found.scores[b]; });
    if (group.found.size() > static_cast<size_t>(limit)) group.found.resize(limit);
  }
  return groups;
}

template <class Region>
CocoPair pair_of(const Group& group, const CocoObjects& truth, const CocoDetections& found,
                 const std::vector<Region>& found_regions, const std::vector<Region>& true_regions) {
  CocoPair pair;
  for (const size_t g : group.truth) {
    pair.true_areas.push_back(truth.areas[g]);
    pair.crowd.push_back(truth.crowd[g] != 0);
  }
  for (const size_t d : group.found) {
    pair.scores.push_back(found.scores[d]);
    if constexpr (std::is_same_v<Region, CocoBox>) {
      pair.areas.push_back(found_regions[d][2] * found_regions[d][3]);
    } else {
      pair.areas.push_back(static_cast<double>(found_regions[d].area));
    }
  }
  const size_t columns = group.truth.size();
  pair.iou.resize(group.found.size() * columns);
  if (columns == 0) return pair;
  at::parallel_for(0, static_cast<int64_t>(group.found.size()), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      for (size_t g = 0; g < columns; ++g) {
        pair.iou[d * columns + g] =
            iou_of(found_regions[group.found[d]], true_regions[group.truth[g]], pair.crowd[g] != 0);
      }
    }
  });
  return pair;
}

template <class Region>
std::vector<CocoRecord> records_of(const CocoObjects& truth, const CocoDetections& found, int64_t limit,
                                   const std::vector<Region>& found_regions,
                                   const std::vector<Region>& true_regions) {
  std::vector<CocoRecord> records;
  for (const auto& [label, group] : groups_of(truth, found, limit))
    records.push_back(match(label, pair_of(group, truth, found, found_regions, true_regions)));
  return records;
}

void check_length(const char* what, size_t length, size_t expected) {
  check<ValueError>(length == expected, "[", kAdd, "] ", length, " ", what, " for ", expected, " labels");
}

void check_labels(const char* what, const std::vector<int64_t>& labels, int64_t classes) {
  for (const int64_t label : labels)
    check<ValueError>(label >= 0 && label < classes, "[", kAdd, "] ", what, " has label ", label,
                      ", outside 0..", classes - 1);
}

void check_finite(const char* what, const double* values, size_t size) {
  for (size_t i = 0; i < size; ++i)
    check<ValueError>(std::isfinite(values[i]), "[", kAdd, "] ", what, " ", values[i], " is not finite");
}

void check_boxes(const char* what, const std::vector<CocoBox>& boxes, size_t labels) {
  check_length(what, boxes.size(), labels);
  for (const CocoBox& box : boxes) check_finite("a number of a box is", box.data(), box.size());
}

void check_image(CocoKind kind, int64_t classes, const CocoObjects& truth, const CocoDetections& found) {
  check_labels("an object", truth.labels, classes);
  check_labels("a detection", found.labels, classes);
  const size_t objects = truth.labels.size(), n = found.labels.size();
  check_length("areas", truth.areas.size(), objects);
  check_length("crowd flags", truth.crowd.size(), objects);
  check_length("scores", found.scores.size(), n);
  check_finite("area", truth.areas.data(), objects);
  check_finite("score", found.scores.data(), n);
  if (kind == CocoKind::kBox) {
    check_boxes("boxes of objects", truth.boxes, objects);
    check_boxes("boxes of detections", found.boxes, n);
    return;
  }
  if (n == 0) return;  // nothing to compare the objects' masks with
  check_length("masks of objects", truth.masks.size(), objects);
  check_length("masks of detections", found.masks.size(), n);
  const ImageSize &a = found.masks.image_size(), &b = truth.masks.image_size();
  check<ValueError>(a == b || objects == 0, "[", kAdd, "] detections of a ", a.height, "x", a.width,
                    " image, objects of a ", b.height, "x", b.width, " one");
}

}  // namespace

const std::array<double, 10>& coco_iou_thresholds() {
  static const auto thresholds = steps<10>(0.5, 0.95);
  return thresholds;
}

const std::array<double, 101>& coco_recall_points() {
  static const auto points = steps<101>(0.0, 1.0);
  return points;
}

CocoEvaluation::CocoEvaluation(CocoKind kind, int64_t classes, int64_t max_detections)
    : kind_(kind), classes_(classes), max_detections_(max_detections) {
  check<ValueError>(classes >= 1, "[CocoEvaluation] there must be a class, got ", classes);
  check<ValueError>(max_detections >= 1, "[CocoEvaluation] max_detections must be positive, got ",
                    max_detections);
}

void CocoEvaluation::add(int64_t image_id, const CocoObjects& truth, const CocoDetections& found) {
  check<ValueError>(!images_.contains(image_id), "[", kAdd, "] image ", image_id, " was added before");
  check_image(kind_, classes_, truth, found);
  if (kind_ == CocoKind::kBox) {
    images_[image_id] = records_of(truth, found, max_detections_, found.boxes, truth.boxes);
    return;
  }
  // Without detections there is nothing to rasterise the objects for.
  const bool compares = !found.labels.empty();
  const auto true_regions = compares ? regions_of(kAdd, truth.masks) : std::vector<MaskRegion>();
  images_[image_id] = records_of(truth, found, max_detections_, regions_of(kAdd, found.masks), true_regions);
}

void CocoEvaluation::merge(const CocoEvaluation& other) {
  check<ValueError>(
      kind_ == other.kind_ && classes_ == other.classes_ && max_detections_ == other.max_detections_,
      "[CocoEvaluation.merge] the parts were made with different settings");
  for (const auto& [id, records] : other.images_)
    check<ValueError>(!images_.contains(id), "[CocoEvaluation.merge] image ", id, " is in both parts");
  images_.insert(other.images_.begin(), other.images_.end());
}

std::vector<int64_t> CocoEvaluation::image_ids() const {
  std::vector<int64_t> ids;
  for (const auto& [id, records] : images_) ids.push_back(id);
  return ids;
}

CocoCurves CocoEvaluation::compute(const std::vector<int64_t>& limits) const {
  check<ValueError>(!limits.empty(), "[CocoEvaluation.compute] no limit of detections given");
  for (const int64_t limit : limits)
    check<ValueError>(limit >= 1 && limit <= max_detections_, "[CocoEvaluation.compute] limit ", limit,
                      " is outside 1..", max_detections_);
  std::vector<std::vector<const CocoRecord*>> by_class(classes_);
  for (const auto& [id, records] : images_) {
    for (const CocoRecord& record : records) by_class[record.label].push_back(&record);
  }
  return accumulate(by_class, limits);
}

}  // namespace instseg
