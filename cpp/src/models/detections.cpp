// SPDX-License-Identifier: Apache-2.0
#include "models/detections.h"

#include <ATen/TensorIndexing.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/stack.h>

#include "instseg/ops/nms.h"

namespace instseg {

at::Tensor select_detections(const FcosCandidates& candidates, const PostConfig& post) {
  auto keep =
      nms(candidates.boxes, candidates.scores, candidates.labels, post.nms_threshold, post.nms_class_offset);
  const int64_t limit = post.max_detections;
  if (keep.size(0) <= limit) return keep;
  if (!post.keep_ties) return keep.narrow(0, 0, limit);
  const auto scores = candidates.scores.index_select(0, keep);
  const auto tied =
      scores.narrow(0, limit, scores.size(0) - limit).ge(scores[limit - 1]).sum().item<int64_t>();
  return keep.narrow(0, 0, limit + tied);
}

std::pair<Instances, at::Tensor> to_original(const at::Tensor& boxes, const at::Tensor& scores,
                                             const at::Tensor& labels, const ImageSize& size,
                                             const ImageSize& original) {
  const double scale_x = static_cast<double>(original.width) / static_cast<double>(size.width);
  const double scale_y = static_cast<double>(original.height) / static_cast<double>(size.height);
  const auto x1 = boxes.select(1, 0).mul(scale_x).clamp_(0, original.width);
  const auto y1 = boxes.select(1, 1).mul(scale_y).clamp_(0, original.height);
  const auto x2 = boxes.select(1, 2).mul(scale_x).clamp_(0, original.width);
  const auto y2 = boxes.select(1, 3).mul(scale_y).clamp_(0, original.height);
  const auto kept = at::nonzero(x2.gt(x1).logical_and_(y2.gt(y1))).squeeze(1);
  Instances instances{.boxes = at::stack({x1, y1, x2, y2}, 1).index_select(0, kept),
                      .scores = scores.index_select(0, kept),
                      .labels = labels.index_select(0, kept),
                      .image_size = original};
  return {std::move(instances), kept};
}

at::Tensor own_rows(const at::Tensor& rows, int64_t begin, int64_t count) {
  return count == rows.size(0) ? rows : rows.narrow(0, begin, count).clone();
}

Instances Instances::above(double threshold) const {
  const auto kept = at::nonzero(scores.ge(threshold)).squeeze(1);
  return {boxes.index_select(0, kept), scores.index_select(0, kept), labels.index_select(0, kept), image_size,
          masks.defined() ? masks.select(kept.to(masks.probabilities.device())) : Masks()};
}

Instances Instances::to(at::Device device) const {
  return {boxes.to(device), scores.to(device), labels.to(device), image_size, masks.to(device)};
}

}  // namespace instseg
