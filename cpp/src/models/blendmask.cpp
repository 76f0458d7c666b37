// SPDX-License-Identifier: Apache-2.0
#include "models/blendmask.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "instseg/error.h"
#include "instseg/ops/blend.h"
#include "layers/location_conv.h"
#include "layers/mask_branch.h"
#include "models/detections.h"
#include "models/fcos_detector.h"
#include "models/ground_truth.h"

namespace instseg {
namespace {

constexpr int64_t kSemanticStride = 8;  // px, of P3
constexpr double kBasesScale = 0.25;    // cells of the bases per px

class BlendMask : public FcosDetector {
 public:
  explicit BlendMask(const ModelConfig& config)
      : FcosDetector(config),
        basis_module_(
            register_module("basis_module", make_basis_module(config.blendmask, config.neck.channels,
                                                              backbone().channels(), config.num_classes))),
        top_layer_(register_module(
            "top_layer", std::make_shared<LocationConv>(
                             config.neck.channels, config.blendmask.bases * config.blendmask.attention_size *
                                                       config.blendmask.attention_size))) {}

 protected:
  void add_losses(const TrainStep& step, NamedTensors& losses) override {
    const auto bases = basis_module_->forward(step.forward.taps, step.forward.features);
    const auto& cells = step.positives;
    // Every positive location learns the mask of its object, cut out by the ground-truth box.
    const auto boxes = step.boxes.index_select(0, step.gt_index);
    const auto logits = blended(bases, step.forward, cells, boxes);
    const auto truth =
        targets_in_boxes(step).to(logits.device()).index_select(0, step.gt_index).to(at::kFloat);
    const auto each =
        at::binary_cross_entropy_with_logits(logits, truth, {}, {}, at::Reduction::None).flatten(1).mean(1);
    const auto weight = centerness_of(step.reg);
    losses.emplace_back("loss_mask", (each * weight).sum() / step.normalizers[1].clamp_min(1e-6));
    if (own().semantic) losses.emplace_back("loss_semantic", semantic_loss(step) * own().semantic_weight);
  }

  at::Tensor mask_map(const FcosForward& forward) override {
    return basis_module_->forward(forward.taps, forward.features);
  }

  void add_masks(const ImageBatch& batch, const FcosForward& forward, const at::Tensor& map,
                 const Found& found, std::vector<Instances>& results) override {
    const auto probabilities = blended(map, forward, found.cells, found.boxes).sigmoid_();
    int64_t begin = 0;
    for (size_t i = 0; i < results.size(); ++i) {
      const int64_t count = found.counts[i];
      const auto boxes = own().paste == "clipped" ? results[i].boxes
                                                  : in_original(found.boxes.narrow(0, begin, count),
                                                                batch.sizes[i], batch.original_sizes[i]);
      results[i].masks = {.probabilities = own_rows(probabilities, begin, count),
                          .placement = "box",
                          .boxes = boxes,
                          .inclusive = true,
                          .image_size = batch.original_sizes[i]};
      begin += count;
    }
  }

  void add_intermediates(const FcosForward& forward, NamedTensors& named) override {
    named.emplace_back("bases", basis_module_->forward(forward.taps, forward.features));
  }

  void lower_masks(at::ScalarType dtype) override { basis_module_->lower(dtype); }

 private:
  const BlendMaskConfig& own() const { return config_.blendmask; }

  /** Mask logits in `boxes` [M, 4], network pixels: [M, size, size]. */
  at::Tensor blended(const at::Tensor& bases, const FcosForward& forward, const Cells& cells,
                     const at::Tensor& boxes) const {
    const auto attention =
        top_layer_->forward(box_towers(forward), cells.levels, cells.images, cells.positions);
    return blend(bases, boxes, cells.images, attention, own().attention_size, own().mask_size, kBasesScale);
  }

  static at::Tensor in_original(const at::Tensor& boxes, const ImageSize& size, const ImageSize& original) {
    const auto x = static_cast<double>(original.width) / static_cast<double>(size.width);
    const auto y = static_cast<double>(original.height) / static_cast<double>(size.height);
    return boxes * at::tensor({x, y, x, y}, boxes.options());
  }

  /** [G, size, size] uint8 over the batch. */
  at::Tensor targets_in_boxes(const TrainStep& step) const {
    std::vector<at::Tensor> masks;
    for (size_t i = 0; i < step.targets.size(); ++i) {
      masks.push_back(rasterize_in_boxes(masks_of(step.targets[i], step.batch.sizes[i], i),
                                         step.targets[i].boxes.cpu(), own().mask_size));
    }
    return at::cat(masks);
  }

  /** Class + 1 of every 8th pixel of the image, [h, w] int64; undefined: no object. */
  static at::Tensor semantic_map(const TrainStep& step, size_t i) {
    const auto& target = step.targets[i];
    const auto& size = step.batch.sizes[i];
    if (!target.semantic.defined() && target.boxes.size(0) == 0) return {};
    const auto map = target.semantic.defined() ? target.semantic.cpu()
                                               : class_map(masks_of(target, size, i), target.labels.cpu());
    check<ValueError>(map.dim() == 2 && map.size(0) == size.height && map.size(1) == size.width,
                      "[losses] semantic map of image ", i, " is ", map.sizes(), ", the network sees ",
                      size.height, " x ", size.width);
    return map.slice(0, 0, std::nullopt, kSemanticStride).slice(1, 0, std::nullopt, kSemanticStride);
  }

  at::Tensor semantic_loss(const TrainStep& step) const {
    const auto logits = basis_module_->semantic(step.forward.features[0]);
    // Padding counts as background.
    const auto labels = at::zeros({logits.size(0), logits.size(2), logits.size(3)}, at::kLong);
    for (size_t i = 0; i < step.targets.size(); ++i) {
      const auto map = semantic_map(step, i);
      if (!map.defined()) continue;
      labels[static_cast<int64_t>(i)].narrow(0, 0, map.size(0)).narrow(1, 0, map.size(1)).copy_(map);
    }
    const auto low = labels.min().item<int64_t>(), high = labels.max().item<int64_t>();
    check<ValueError>(low >= 0 && high < logits.size(1), "[losses] a semantic map has value ",
                      low < 0 ? low : high, "; use 0 for background and class + 1, up to ",
                      logits.size(1) - 1);
    return at::cross_entropy_loss(logits, labels.to(logits.device()));
  }

  std::shared_ptr<MaskBranch> basis_module_;
  std::shared_ptr<LocationConv> top_layer_;
};

}  // namespace

std::shared_ptr<Model> make_blendmask(const ModelConfig& config) {
  return std::make_shared<BlendMask>(config);
}

}  // namespace instseg
