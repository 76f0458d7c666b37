// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "instseg/model.h"
#include "instseg/ops/fcos_targets.h"
#include "instseg/ops/rasterize.h"
#include "layers/backbone.h"
#include "layers/fcos_head.h"
#include "layers/fpn.h"

namespace instseg {

/** Everything the network computed for a batch. */
struct FcosForward {
  std::vector<at::Tensor> taps;      // C2..C5
  std::vector<at::Tensor> features;  // P{min_level}..P{max_level}
  std::vector<HeadOutput> outputs;   // one per feature
};

/** Cells of the pyramid, one row each, on the device of the network. */
struct Cells {
  at::Tensor levels;     // [M] int64, index into the levels
  at::Tensor images;     // [M] int64, index into the batch
  at::Tensor positions;  // [M] int64, row * width + column within the level

  int64_t size() const { return levels.size(0); }
  Cells select(const at::Tensor& index) const;
};

/** Detections of a batch, images one after the other. */
struct Found {
  Cells cells;
  at::Tensor boxes;             // [M, 4] float32, network pixels, not clipped
  std::vector<int64_t> counts;  // detections of each image
};

/** One training step as mask losses see it. */
struct TrainStep {
  const ImageBatch& batch;
  const std::vector<Targets>& targets;  // as handed in, on any device
  at::Tensor boxes;                     // [G, 4] float32, ground truth of all images
  const FcosForward& forward;
  Cells positives;                                 // locations assigned to an object
  at::Tensor gt_index;                             // [P] int64, object of each, counted through the batch
  at::Tensor reg;                                  // [P, 4] l, t, r, b in strides
  const std::vector<RasterizedMasks>& rasterized;  // per image, when the family asked for it
  at::Tensor normalizers;                          // [K] fcos_normalizers and the family's, over the step
};

/**
 * Backbone, pyramid and FCOS head with their training, decoding and timing: what all FCOS-based families
 * share. A family with masks overrides the hooks at the end.
 */
class FcosDetector : public Model {
 public:
  explicit FcosDetector(const ModelConfig& config);

  NamedTensors losses(const ImageBatch& batch, const std::vector<Targets>& targets) override;
  at::Tensor normalizers(const ImageBatch& batch, const std::vector<Targets>& targets) override;
  std::vector<Instances> detect(const ImageBatch& batch) override;
  NamedTensors intermediates(const ImageBatch& batch) override;
  void lower(at::ScalarType dtype) override;

 protected:
  const Backbone& backbone() const { return *backbone_; }
  /** x, y of cells in network pixels, [M, 2] float32. */
  at::Tensor locations_of(const ImageBatch& batch, const Cells& cells) const;

  /** Ground-truth masks on the padded canvas; not empty: their centroids replace the box centers in
   * assignment. */
  virtual std::vector<RasterizedMasks> rasterized(const ImageBatch& batch,
                                                  const std::vector<Targets>& targets);
  /** Normalisers besides FCOS's, counted in the objects [P] of the positives and their images [P]. */
  virtual std::vector<double> own_normalizers(const at::Tensor& images, const at::Tensor& gt_index) const;
  virtual void add_losses(const TrainStep& step, NamedTensors& losses);
  /** The map all masks are made of; its time counts as the network's. */
  virtual at::Tensor mask_map(const FcosForward& forward);
  /** Gives `results`, one per image with `found.counts` instances, their masks. */
  virtual void add_masks(const ImageBatch& batch, const FcosForward& forward, const at::Tensor& map,
                         const Found& found, std::vector<Instances>& results);
  virtual void add_intermediates(const FcosForward& forward, NamedTensors& named);
  virtual void lower_masks(at::ScalarType dtype);

 private:
  struct Assignment;

  Assignment assign(const ImageBatch& batch, const std::vector<Targets>& targets);
  FcosForward forward(const ImageBatch& batch);
  size_t num_levels() const {
    return static_cast<size_t>(config_.neck.max_level - config_.neck.min_level + 1);
  }
  int64_t stride(size_t level) const;
  double unit(size_t level) const;
  LocationGrid grid(const ImageBatch& batch, size_t level) const;
  std::vector<TargetLevel> target_levels(const ImageBatch& batch) const;

  std::shared_ptr<Backbone> backbone_;
  std::shared_ptr<Fpn> neck_;
  std::shared_ptr<FcosHead> head_;
  at::Tensor moving_positives_;
  at::ScalarType dtype_ = at::kFloat;
  bool lowered_ = false;
};

/** The tower that mask predictors read, one map per level. */
std::vector<at::Tensor> box_towers(const FcosForward& forward);

}  // namespace instseg
