// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "instseg/mask_targets.h"

namespace instseg {

/** x, y, width, height in pixels, as COCO files have it. */
using CocoBox = std::array<double, 4>;

/** What is compared. */
enum class CocoKind { kBox, kMask };

/** IoU 0.50, 0.55, ..., 0.95 and recall 0, 0.01, ..., 1: the doubles of the COCO API. */
const std::array<double, 10>& coco_iou_thresholds();
const std::array<double, 101>& coco_recall_points();

/** Annotations of one image; all of one length G. */
struct CocoObjects {
  std::vector<int64_t> labels;  // class index, 0..classes-1
  std::vector<double> areas;    // px^2, decides the size: small, medium or large
  std::vector<uint8_t> crowd;   // 1: an ignored region
  std::vector<CocoBox> boxes;   // G of them for boxes
  MaskTargets masks;            // G of them for masks, unless there is no detection
};

/** Detections of one image, in any order; all of one length D. A size is that of the box or of the mask. */
struct CocoDetections {
  std::vector<int64_t> labels;
  std::vector<double> scores;  // finite; equal ones keep their order
  std::vector<CocoBox> boxes;
  MaskTargets masks;
};

/** IoU [D, G] float64; of a crowd the share of the detection inside it. Throws ValueError on other lengths.
 */
at::Tensor coco_box_iou(const std::vector<CocoBox>& found, const std::vector<CocoBox>& truth,
                        const std::vector<uint8_t>& crowd);
/** The same of masks of one image, on run lengths: no bitmap is made. Throws ValueError on other sizes. */
at::Tensor coco_mask_iou(const MaskTargets& found, const MaskTargets& truth,
                         const std::vector<uint8_t>& crowd);

/** What is kept of one class of one image. */
struct CocoRecord {
  int64_t label = 0;
  std::array<int64_t, 4> objects{};  // that count, by area: all, small, medium, large
  std::vector<double> scores;        // descending
  std::vector<uint16_t> matched;     // [areas, detections], bit t: matched at IoU threshold t
  std::vector<uint16_t> ignored;     // the same: neither right nor wrong
};

/** Accumulated numbers, float64; -1 where a class has no object of that area. */
struct CocoCurves {
  at::Tensor precision;  // [10 IoU, 101 recall, classes, 4 areas, limits]
  at::Tensor recall;     // [10 IoU, classes, 4 areas, limits]
  at::Tensor scores;     // as precision: the score at which that recall is reached
  at::Tensor objects;    // int64 [classes, 4 areas]: annotations that count
};

/**
 * Average precision of boxes or masks by the rules of the COCO API, bit for bit. Each image is matched when
 * it is added; only a few bytes a detection are kept. Parts of a data set are evaluated apart and merged; the
 * order of images does not matter. Not safe to change from several threads. (docs/evaluation.md)
 */
class CocoEvaluation {
 public:
  /** `max_detections`: of an image and class that are kept. Throws ValueError on less than 1 of either. */
  CocoEvaluation(CocoKind kind, int64_t classes, int64_t max_detections = 100);

  /** Matches one image. Throws ValueError when it was added before, on lengths that differ, labels outside
   * 0..classes-1, areas, boxes or scores that are not finite, and masks of another image size. */
  void add(int64_t image_id, const CocoObjects& truth, const CocoDetections& found);
  /** Takes the images of another part. Throws ValueError when one is in both or the settings differ. */
  void merge(const CocoEvaluation& other);
  /** Numbers over all images, counting up to `limits` detections of an image and class each. Throws
   * ValueError on a limit outside 1..max_detections. */
  CocoCurves compute(const std::vector<int64_t>& limits) const;

  /** Ids of the added images, ascending. */
  std::vector<int64_t> image_ids() const;
  CocoKind kind() const { return kind_; }
  int64_t classes() const { return classes_; }
  int64_t max_detections() const { return max_detections_; }

  /** All of it as bytes, for another process on the same kind of machine. */
  std::string state() const;
  /** The reverse of state(). Throws ValueError on bytes that are not one. */
  static CocoEvaluation from_state(const std::string& bytes);

 private:
  CocoKind kind_;
  int64_t classes_, max_detections_;
  std::map<int64_t, std::vector<CocoRecord>> images_;
};

}  // namespace instseg
