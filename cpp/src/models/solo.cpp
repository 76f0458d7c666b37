// SPDX-License-Identifier: Apache-2.0
#include "models/solo.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

#include "instseg/error.h"
#include "instseg/ops/dice_loss.h"
#include "instseg/ops/solo_targets.h"
#include "layers/backbone.h"
#include "layers/fpn.h"
#include "layers/solo_head.h"
#include "losses/mask_losses.h"
#include "losses/solo_losses.h"
#include "models/check_batch.h"
#include "models/solo_masks.h"
#include "models/stage_clock.h"

namespace instseg {
namespace {

/** Targets on the CPU, with boxes as their scales are measured. */
std::vector<Targets> assigned_targets(const ImageBatch& batch, const std::vector<Targets>& targets,
                                      bool inclusive) {
  std::vector<Targets> moved = targets;
  for (size_t i = 0; i < moved.size(); ++i) {
    auto &boxes = moved[i].boxes, &labels = moved[i].labels;
    check<ValueError>(boxes.defined() && boxes.dim() == 2 && boxes.size(1) == 4 && labels.defined() &&
                          labels.dim() == 1 && labels.size(0) == boxes.size(0),
                      "[losses] targets of image ", i, ": boxes must be [G, 4] and labels [G]");
    boxes = boxes.to(at::kCPU, at::kFloat);
    labels = labels.to(at::kCPU, at::kLong);
    if (!inclusive) continue;
    // x2 = x1 + w - 1 in the original image, scaled and clipped to the last pixel.
    const auto &size = batch.sizes[i], &original = batch.original_sizes[i];
    const double pixel_x = static_cast<double>(size.width) / static_cast<double>(original.width);
    const double pixel_y = static_cast<double>(size.height) / static_cast<double>(original.height);
    const auto x1 = boxes.select(1, 0), y1 = boxes.select(1, 1);
    const auto x2 = boxes.select(1, 2) - pixel_x, y2 = boxes.select(1, 3) - pixel_y;
    boxes = at::stack({x1.clamp(0, size.width - 1), y1.clamp(0, size.height - 1), x2.clamp(0, size.width - 1),
                       y2.clamp(0, size.height - 1)},
                      1);
  }
  return moved;
}

class Solo : public Model {
 public:
  explicit Solo(const ModelConfig& config)
      : Model(config),
        backbone_(register_module("backbone", make_backbone(config.backbone))),
        neck_(register_module("neck", std::make_shared<Fpn>(config.neck, backbone_->channels()))),
        head_(register_module("head", make_solo_head(config.solo, config.neck.channels, config.num_classes,
                                                     config.head.prior_prob))) {
    if (config.solo.head != "solov2") return;
    mask_branch_ =
        register_module("mask_branch", std::make_shared<SoloMaskBranch>(config.solo, config.neck.channels));
  }

  NamedTensors losses(const ImageBatch& batch, const std::vector<Targets>& targets) override {
    check<Error>(!lowered_, "[losses] the model was lowered for inference and cannot be trained");
    const auto levels = assign(batch, targets);
    const auto normalizers = over_parts(solo_normalizers(levels, config_.num_classes));
    auto network = forward(batch);
    const auto cls = solo_category_loss(network.logits, levels, config_.num_classes, config_.loss) /
                     (normalizers[0].item<double>() + one());
    std::vector<at::Tensor> terms;
    for (size_t level = 0; level < levels.size(); ++level)
      add_mask_terms(network, level, levels[level], terms);
    auto zero = head_->unused_zero(network);
    if (mask_branch_ && terms.empty()) {
      for (const auto& parameter : mask_branch_->parameters()) zero = zero + 0 * parameter.sum();
    }
    const auto mask = terms.empty() ? zero
                                    : at::cat(terms).sum() / std::max(normalizers[1].item<double>(), one()) *
                                              own().mask_weight +
                                          zero;
    return {{"loss_cls", cls}, {"loss_mask", mask}};
  }

  at::Tensor normalizers(const ImageBatch& batch, const std::vector<Targets>& targets) override {
    return solo_normalizers(assign(batch, targets), config_.num_classes);
  }

  std::vector<Instances> detect(const ImageBatch& batch) override {
    check_batch(batch, "detect");
    const c10::AutoGradMode no_grad(false);
    StageClock clock(batch.pixels);
    auto network = forward(batch);
    network.taps.clear();  // the largest maps, of no use from here
    std::vector<SoloCandidates> candidates;
    for (size_t i = 0; i < batch.sizes.size(); ++i) {
      candidates.push_back(
          solo_candidates(network.logits, static_cast<int64_t>(i), config_.post.score_threshold));
      for (size_t level = 0; level < candidates[i].levels.size(); ++level) {
        if (candidates[i].levels[level].scores.size(0) > 0) prepare(network, level);
      }
    }
    times_.network = clock.lap();

    std::vector<Instances> results;
    for (size_t i = 0; i < candidates.size(); ++i) {
      auto found = solo_masks(*head_, network, static_cast<int64_t>(i), candidates[i], config_);
      Masks masks{.probabilities = std::move(found.probabilities),
                  .placement = "image",
                  .stride = kMaskStride,
                  .enlarge = "half_pixel",
                  .network_size = batch.sizes[i],
                  .image_size = batch.original_sizes[i]};
      const auto boxes = masks.tight_boxes().to(found.scores.device());
      results.push_back({boxes, found.scores, found.labels, batch.original_sizes[i], std::move(masks)});
    }
    times_.postprocess = clock.lap();
    return results;
  }

  NamedTensors intermediates(const ImageBatch& batch) override {
    check_batch(batch, "intermediates");
    const c10::AutoGradMode no_grad(false);
    auto network = forward(batch);
    NamedTensors named = {{"input", batch.pixels}};
    for (size_t i = 0; i < network.taps.size(); ++i) named.emplace_back(join("res", i + 2), network.taps[i]);
    for (size_t i = 0; i < network.features.size(); ++i)
      named.emplace_back(join("p", i + 2), network.features[i]);
    for (size_t l = 0; l < network.logits.size(); ++l) {
      prepare(network, l);
      named.emplace_back(join("cls.", l), network.logits[l]);
    }
    for (auto& map : head_->all_maps(network)) named.push_back(std::move(map));
    if (mask_branch_) named.emplace_back("mask_features", network.mask_features);
    return named;
  }

  void lower(at::ScalarType dtype) override {
    check<Error>(!lowered_, "[lower] the model was lowered before");
    eval();
    lower_units(*backbone_, dtype);
    // Heads read P2 at half its size; SOLOv2's mask branch reads it in full.
    neck_->lower(dtype, !mask_branch_ && config_.neck.norm == "none");
    head_->lower(dtype);
    if (mask_branch_) mask_branch_->lower(dtype);
    dtype_ = dtype;
    lowered_ = true;
  }

 private:
  static constexpr int64_t kMaskStride = 4;  // px per mask pixel

  const SoloConfig& own() const { return config_.solo; }

  std::vector<SoloTargets> assign(const ImageBatch& batch, const std::vector<Targets>& targets) const {
    check_batch(batch, "losses");
    check<ValueError>(targets.size() == batch.sizes.size(), "[losses] ", targets.size(), " targets for ",
                      batch.sizes.size(), " images");
    const ImageSize canvas{batch.pixels.size(2), batch.pixels.size(3)};
    return solo_targets(assigned_targets(batch, targets, own().inclusive_boxes), batch.sizes, canvas,
                        config_.num_classes, own());
  }

  SoloForward forward(const ImageBatch& batch) {
    SoloForward network;
    network.taps = backbone_->forward(batch.pixels.to(dtype_));
    network.mask_size = {network.taps[0].size(2), network.taps[0].size(3)};
    network.features = neck_->forward(network.taps);
    head_->classify(network);
    return network;
  }

  /** Runs what masks of `level` are made of, unless it has been. */
  void prepare(SoloForward& network, size_t level) {
    if (mask_branch_ && !network.mask_features.defined()) {
      network.mask_features = mask_branch_->forward(network.features);
    }
    head_->prepare(network, level);
  }

  /** Dice losses of the positive cells of a level, image by image. */
  void add_mask_terms(SoloForward& network, size_t level, const SoloTargets& targets,
                      std::vector<at::Tensor>& terms) {
    if (targets.cells.size(0) == 0) return;
    prepare(network, level);
    const auto device = network.logits[level].device();
    const auto truth = targets.masks.to(device);
    for (int64_t image = 0; image < network.logits[level].size(0); ++image) {
      const auto rows = at::nonzero(targets.images.eq(image)).squeeze(1);
      if (rows.size(0) == 0) continue;
      const auto cells = targets.cells.index_select(0, rows).to(device);
      const auto make = head_->masks(network, level, image, cells, {});
      terms.push_back(dice_loss(make(at::arange(rows.size(0), cells.options())), truth,
                                targets.mask_of.index_select(0, rows).to(device), 2 * own().dice_eps,
                                /*logits=*/false));
    }
  }

  std::shared_ptr<Backbone> backbone_;
  std::shared_ptr<Fpn> neck_;
  std::shared_ptr<SoloHead> head_;
  std::shared_ptr<SoloMaskBranch> mask_branch_;  // "solov2"
  at::ScalarType dtype_ = at::kFloat;
  bool lowered_ = false;
};

}  // namespace

std::shared_ptr<Model> make_solo(const ModelConfig& config) { return std::make_shared<Solo>(config); }

}  // namespace instseg
