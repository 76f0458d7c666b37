// SPDX-License-Identifier: Apache-2.0
#include "models/solo_masks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero.h>

#include <algorithm>
#include <utility>

#include "instseg/ops/binary_masks.h"

namespace instseg {
namespace {

constexpr double kInside = 0.5;
constexpr int64_t kChunk = 64;  // masks made at a time
constexpr int64_t kKept = 256;  // masks of an image that are kept instead of made again for the results
// A mask of no more pixels at stride 4 than its level's stride is dropped (the original's constants).
constexpr int64_t kStrides[] = {8, 8, 16, 32, 32};

/** The masks of all candidates of an image, of which only bits and sums are kept when they are many. */
class CandidateMasks {
 public:
  /** `count` masks that `make` makes. */
  void add(MaskMaker make, int64_t count, const at::TensorOptions& options) {
    for (int64_t begin = 0; begin < count; begin += kChunk) {
      const auto rows = at::arange(begin, std::min(begin + kChunk, count), options);
      auto soft = make(rows);
      packed_.push_back(pack_masks(soft, kInside));
      if (count_ + count <= kKept) kept_.push_back(std::move(soft));
    }
    makers_.push_back({std::move(make), count_, count});
    count_ += count;
    if (count_ > kKept) kept_.clear();
  }

  PackedMasks packed() const {
    std::vector<at::Tensor> bits, areas, mass;
    for (const auto& part : packed_) {
      bits.push_back(part.bits);
      areas.push_back(part.areas);
      mass.push_back(part.mass);
    }
    return {at::cat(bits), at::cat(areas), at::cat(mass)};
  }

  /** Probabilities of the masks at `rows` [K] int64, in that order. */
  at::Tensor probabilities(const at::Tensor& rows) const {
    if (count_ <= kKept) return at::cat(kept_).index_select(0, rows);
    std::vector<at::Tensor> parts, places;
    for (const auto& maker : makers_) {
      const auto mine =
          at::nonzero(rows.ge(maker.first).logical_and_(rows.lt(maker.first + maker.count))).squeeze(1);
      if (mine.size(0) == 0) continue;
      parts.push_back(maker.make(rows.index_select(0, mine) - maker.first));
      places.push_back(mine);
    }
    return at::cat(parts).index_select(0, at::argsort(at::cat(places)));
  }

 private:
  struct Maker {
    MaskMaker make;
    int64_t first, count;
  };
  std::vector<Maker> makers_;
  std::vector<PackedMasks> packed_;
  std::vector<at::Tensor> kept_;
  int64_t count_ = 0;
};

/** One row per candidate. */
struct Rows {
  at::Tensor masks;    // [M] int64, which of the masks; classes of one cell share theirs
  at::Tensor strides;  // [M] int64
  at::Tensor labels, scores;

  Rows select(const at::Tensor& index) const {
    return {masks.index_select(0, index), strides.index_select(0, index), labels.index_select(0, index),
            scores.index_select(0, index)};
  }
  /** The best `limit`, best first. */
  Rows best(int64_t limit) const {
    const auto order = at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true);
    return select(order.narrow(0, 0, std::min(limit, order.size(0))));
  }
};

Rows make_masks(SoloHead& head, const SoloForward& network, int64_t image, const SoloCandidates& candidates,
                CandidateMasks& masks) {
  std::vector<at::Tensor> of, strides, labels, scores;
  int64_t first = 0;
  for (size_t level = 0; level < candidates.levels.size(); ++level) {
    const auto& found = candidates.levels[level];
    if (found.scores.size(0) == 0) continue;
    const auto [cells, cell_of] = at::_unique(found.cells, /*sorted=*/true, /*return_inverse=*/true);
    masks.add(head.masks(network, level, image, cells, network.mask_size), cells.size(0), cells.options());
    of.push_back(cell_of + first);
    strides.push_back(at::full({found.scores.size(0)}, kStrides[level], cells.options()));
    labels.push_back(found.labels);
    scores.push_back(found.scores);
    first += cells.size(0);
  }
  return {at::cat(of), at::cat(strides), at::cat(labels), at::cat(scores)};
}

SoloDetections no_detections(const SoloForward& network) {
  const auto options = network.logits[0].options();
  return {at::empty({0, network.mask_size.height, network.mask_size.width}, options), at::empty({0}, options),
          at::empty({0}, options.dtype(at::kLong))};
}

/** Suppresses candidates that come best first. */
Rows suppress(const Rows& rows, const PackedMasks& masks, const ModelConfig& config) {
  const auto& solo = config.solo;
  if (solo.nms == "mask") {
    return rows.select(mask_nms(masks, rows.scores, rows.labels, config.post.nms_threshold));
  }
  Rows rescored = rows;
  rescored.scores = matrix_nms(masks, rows.scores, rows.labels, solo.nms_kernel, solo.nms_sigma);
  return rescored;
}

}  // namespace

SoloCandidates solo_candidates(const std::vector<at::Tensor>& logits, int64_t image, double threshold) {
  SoloCandidates candidates;
  for (const auto& level : logits) candidates.levels.push_back(points_nms(level[image], threshold));
  return candidates;
}

SoloDetections solo_masks(SoloHead& head, const SoloForward& network, int64_t image,
                          const SoloCandidates& candidates, const ModelConfig& config) {
  const bool any = std::ranges::any_of(candidates.levels, [](const auto& l) { return l.scores.size(0) > 0; });
  if (!any) return no_detections(network);
  CandidateMasks masks;
  auto rows = make_masks(head, network, image, candidates, masks);
  const auto packed = masks.packed();
  const auto areas = packed.areas.index_select(0, rows.masks);
  rows.scores =
      rows.scores * (packed.mass.index_select(0, rows.masks) / areas);  // NaN for an empty mask, dropped next
  rows = rows.select(at::nonzero(areas.gt(rows.strides)).squeeze(1)).best(config.solo.max_candidates);
  rows = suppress(rows, packed.select(rows.masks), config);
  rows = rows.select(at::nonzero(rows.scores.ge(config.solo.update_threshold)).squeeze(1))
             .best(config.post.max_detections);
  if (rows.scores.size(0) == 0) return no_detections(network);
  return {masks.probabilities(rows.masks), rows.scores, rows.labels};
}

}  // namespace instseg
