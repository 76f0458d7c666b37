// SPDX-License-Identifier: Apache-2.0
#include "evaluation/coco_iou.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "instseg/error.h"
#include "kernels/run_overlap.h"
#include "ops/mask_targets.h"

namespace instseg {
namespace {

// Rows a thread takes at least; a row takes a few microseconds.
constexpr int64_t kGrain = 32;

template <class Region>
at::Tensor iou_table(const char* function, const std::vector<Region>& found, const std::vector<Region>& truth,
                     const std::vector<uint8_t>& crowd) {
  check<ValueError>(crowd.size() == truth.size(), "[", function, "] crowd has ", crowd.size(),
                    " entries for ", truth.size(), " objects");
  const auto rows = static_cast<int64_t>(found.size()), columns = static_cast<int64_t>(truth.size());
  at::Tensor out = at::zeros({rows, columns}, at::kDouble);
  auto* table = out.mutable_data_ptr<double>();
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      for (int64_t g = 0; g < columns; ++g) table[d * columns + g] = iou_of(found[d], truth[g], crowd[g]);
    }
  });
  return out;
}

}  // namespace

std::vector<MaskRegion> regions_of(const char* function, const MaskTargets& masks) {
  std::vector<MaskRegion> regions;
  regions.reserve(masks.size());
  for (kernels::Runs& runs : runs_on(function, masks, masks.image_size())) {
    MaskRegion region{std::move(runs), {}, 0};
    region.box = kernels::box_of_runs(region.runs, masks.image_size().height);
    region.area = kernels::area_of_runs(region.runs);
    regions.push_back(std::move(region));
  }
  return regions;
}

double iou_of(const CocoBox& found, const CocoBox& truth, bool crowd) {
  const double w = std::min(found[0] + found[2], truth[0] + truth[2]) - std::max(found[0], truth[0]);
  const double h = std::min(found[1] + found[3], truth[1] + truth[3]) - std::max(found[1], truth[1]);
  if (w <= 0 || h <= 0) return 0;
  const double own = found[2] * found[3], shared = w * h;
  return shared / (crowd ? own : own + truth[2] * truth[3] - shared);
}

double iou_of(const MaskRegion& found, const MaskRegion& truth, bool crowd) {
  if (!kernels::boxes_meet(found.box, truth.box)) return 0;
  const int64_t shared = kernels::shared_pixels(found.runs, truth.runs);
  if (shared == 0) return 0;
  const int64_t whole = crowd ? found.area : found.area + truth.area - shared;
  return static_cast<double>(shared) / static_cast<double>(whole);
}

at::Tensor coco_box_iou(const std::vector<CocoBox>& found, const std::vector<CocoBox>& truth,
                        const std::vector<uint8_t>& crowd) {
  return iou_table("coco_box_iou", found, truth, crowd);
}

at::Tensor coco_mask_iou(const MaskTargets& found, const MaskTargets& truth,
                         const std::vector<uint8_t>& crowd) {
  const ImageSize &a = found.image_size(), &b = truth.image_size();
  check<ValueError>(a == b, "[coco_mask_iou] masks of a ", a.height, "x", a.width, " and of a ", b.height,
                    "x", b.width, " image cannot be compared");
  return iou_table("coco_mask_iou", regions_of("coco_mask_iou", found), regions_of("coco_mask_iou", truth),
                   crowd);
}

}  // namespace instseg
