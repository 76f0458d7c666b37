// SPDX-License-Identifier: Apache-2.0
#include "models/condinst.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "instseg/error.h"
#include "instseg/ops/aligned_bilinear.h"
#include "instseg/ops/dice_loss.h"
#include "instseg/ops/dynamic_mask_head.h"
#include "layers/location_conv.h"
#include "layers/mask_branch.h"
#include "losses/boxinst_losses.h"
#include "losses/mask_losses.h"
#include "models/detections.h"
#include "models/fcos_detector.h"
#include "models/ground_truth.h"
#include "models/proposals.h"

namespace instseg {
namespace {

constexpr int64_t kFeatureStride = 8;  // px, of P3 and the mask features

DynamicHead head_of(const CondInstConfig& config) {
  return {config.head_depth, config.head_width, config.coordinates, kFeatureStride};
}

/** Sizes of interest of the levels, px: the bounds between levels and twice the last. */
std::vector<double> sizes_of_interest(const ModelConfig& config) {
  std::vector<double> sizes(config.targets.sizes_of_interest.begin(), config.targets.sizes_of_interest.end());
  sizes.push_back(sizes.empty() ? 64.0 : 2 * sizes.back());
  return sizes;
}

class CondInst : public FcosDetector {
 public:
  explicit CondInst(const ModelConfig& config)
      : FcosDetector(config),
        mask_branch_(register_module(
            "mask_branch", make_mask_branch(config.condinst, config.neck.channels, config.num_classes))),
        controller_(register_module(
            "controller",
            std::make_shared<LocationConv>(
                config.neck.channels, head_of(config.condinst).parameters(config.condinst.mask_channels)))) {
    if (from_boxes()) iterations_ = register_buffer("iterations", at::zeros({}, at::kLong));
  }

 protected:
  std::vector<RasterizedMasks> rasterized(const ImageBatch& batch,
                                          const std::vector<Targets>& targets) override {
    const ImageSize canvas{batch.pixels.size(2), batch.pixels.size(3)};
    const int64_t stride = own().output_stride;
    std::vector<RasterizedMasks> result;
    for (size_t i = 0; i < targets.size(); ++i) {
      result.push_back(from_boxes()
                           ? rasterize_boxes(targets[i].boxes, canvas, stride, stride / 2)
                           : rasterize(masks_of(targets[i], batch.sizes[i], i), canvas, stride, stride / 2));
    }
    return result;
  }

  std::vector<double> own_normalizers(const at::Tensor& images, const at::Tensor& gt_index) const override {
    return {static_cast<double>(count_proposals(images, gt_index, own()))};
  }

  void add_losses(const TrainStep& step, NamedTensors& losses) override {
    const auto features = mask_branch_->forward(step.forward.taps, step.forward.features);
    const auto chosen = choose_proposals(step, own());
    const auto cells = step.positives.select(chosen);
    const auto gt_index = step.gt_index.index_select(0, chosen);
    const auto logits = mask_logits(step.batch, step.forward, features, cells);
    std::vector<at::Tensor> sampled;
    for (const auto& masks : step.rasterized) sampled.push_back(masks.sampled);
    const auto truth = at::cat(sampled).to(logits.device());
    if (from_boxes()) {
      add_box_losses(step, cells, logits, truth.index_select(0, gt_index).to(at::kFloat), losses);
    } else {
      losses.emplace_back("loss_mask", mean_of(step, dice_loss(logits, truth, gt_index, own().dice_eps)));
    }
    if (own().semantic) losses.emplace_back("loss_semantic", semantic_loss(step));
  }

  at::Tensor mask_map(const FcosForward& forward) override {
    if (own().mask_channels == 0) return unused_features(forward);
    return mask_branch_->forward(forward.taps, forward.features);
  }

  void add_masks(const ImageBatch& batch, const FcosForward& forward, const at::Tensor& map,
                 const Found& found, std::vector<Instances>& results) override {
    const auto probabilities = mask_logits(batch, forward, map, found.cells).sigmoid_();
    int64_t begin = 0;
    for (size_t i = 0; i < results.size(); ++i) {
      const int64_t count = found.counts[i];
      results[i].masks = {.probabilities = own_rows(probabilities, begin, count),
                          .placement = "image",
                          .stride = own().output_stride,
                          .network_size = batch.sizes[i],
                          .image_size = batch.original_sizes[i]};
      begin += count;
    }
  }

  void add_intermediates(const FcosForward& forward, NamedTensors& named) override {
    named.emplace_back("mask_features", mask_branch_->forward(forward.taps, forward.features));
  }

  void lower_masks(at::ScalarType dtype) override { mask_branch_->lower(dtype); }

 private:
  const CondInstConfig& own() const { return config_.condinst; }
  /** Mean over the instances of the whole step, 0 without any. */
  at::Tensor mean_of(const TrainStep& step, const at::Tensor& values) const {
    return values.sum() / step.normalizers[2].clamp_min(one());
  }

  bool from_boxes() const { return own().supervision == "boxes"; }

  /** Stands for mask features of no channels, whose network need not run. */
  static at::Tensor unused_features(const FcosForward& forward) {
    const auto& p3 = forward.features[0];
    return at::zeros({p3.size(0), 1, p3.size(2), p3.size(3)}, p3.options().dtype(at::kFloat));
  }

  /** Logits of the instances found at `cells` at the output stride, [M, h, w]. */
  at::Tensor mask_logits(const ImageBatch& batch, const FcosForward& forward, const at::Tensor& features,
                         const Cells& cells) const {
    const auto parameters =
        controller_->forward(box_towers(forward), cells.levels, cells.images, cells.positions);
    const auto sizes = at::tensor(sizes_of_interest(config_), features.options().dtype(at::kFloat));
    const auto logits =
        dynamic_mask_head(features.narrow(1, 0, own().mask_channels), parameters, cells.images,
                          locations_of(batch, cells), sizes.index_select(0, cells.levels), head_of(own()));
    const int64_t factor = kFeatureStride / own().output_stride;
    return factor == 1 ? logits : aligned_bilinear(logits, factor);
  }

  void add_box_losses(const TrainStep& step, const Cells& cells, const at::Tensor& logits,
                      const at::Tensor& boxes, NamedTensors& losses) {
    const auto& boxinst = own().boxinst;
    losses.emplace_back("loss_projection", mean_of(step, projection_loss(logits, boxes, own().dice_eps)));
    if (begins_step()) iterations_.add_(1);
    const auto similarity = color_similarity(step.batch, config_.input, boxinst, own().output_stride);
    const auto warmup = iterations_.to(at::kFloat).div(std::max<int64_t>(boxinst.warmup_iterations, 1));
    losses.emplace_back("loss_pairwise", pairwise_loss(logits, similarity, boxes, boxinst, cells.images) *
                                             warmup.clamp_max(1));
  }

  at::Tensor semantic_loss(const TrainStep& step) {
    const auto logits = mask_branch_->semantic(step.forward.features[0]);
    const ImageSize canvas{step.batch.pixels.size(2), step.batch.pixels.size(3)};
    std::vector<at::Tensor> maps;
    for (size_t i = 0; i < step.targets.size(); ++i) {
      maps.push_back(smallest_class_map(masks_of(step.targets[i], step.batch.sizes[i], i),
                                        step.targets[i].labels.cpu(), canvas, kFeatureStride,
                                        kFeatureStride / 2));
    }
    return semantic_focal_loss(logits, at::stack(maps).to(logits.device()), config_.loss.focal_alpha,
                               config_.loss.focal_gamma);
  }

  std::shared_ptr<MaskBranch> mask_branch_;
  std::shared_ptr<LocationConv> controller_;
  at::Tensor iterations_;  // of training from boxes, for the warm-up of its pairwise term
};

}  // namespace

std::shared_ptr<Model> make_condinst(const ModelConfig& config) { return std::make_shared<CondInst>(config); }

}  // namespace instseg
