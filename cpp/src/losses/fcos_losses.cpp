// SPDX-License-Identifier: Apache-2.0
#include "losses/fcos_losses.h"

#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/GradMode.h>

#include "instseg/ops/box_loss.h"
#include "instseg/ops/focal_loss.h"

namespace instseg {
namespace {

/** [N, C, H, W] -> [N*H*W, C], a view for channels-last maps. */
at::Tensor flatten_map(const at::Tensor& map) { return map.permute({0, 2, 3, 1}).reshape({-1, map.size(1)}); }

at::Tensor gather_positives(const std::vector<HeadOutput>& outputs, at::Tensor HeadOutput::* member,
                            const at::Tensor& positives) {
  std::vector<at::Tensor> flat;
  for (const auto& output : outputs) flat.push_back(flatten_map(output.*member).to(at::kFloat));
  return at::cat(flat).index_select(0, positives);
}

/** Focal loss summed over levels; no level is copied. */
at::Tensor classification(const std::vector<HeadOutput>& outputs, const at::Tensor& labels,
                          const LossConfig& loss) {
  at::Tensor sum;
  int64_t begin = 0;
  for (const auto& output : outputs) {
    const auto logits = flatten_map(output.logits);
    const auto part = sigmoid_focal_loss(logits, labels.narrow(0, begin, logits.size(0)), loss.focal_alpha,
                                         loss.focal_gamma);
    sum = sum.defined() ? sum + part : part;
    begin += logits.size(0);
  }
  return sum;
}

/** Distances of the positives in the unit that the head regresses. */
at::Tensor positive_targets(const FcosTargets& targets, const at::Tensor& positives,
                            const std::vector<HeadOutput>& outputs, const FcosLossContext& context) {
  auto reg = targets.reg;
  if (!context.config.head.stride_units) {
    std::vector<at::Tensor> pixels;
    int64_t begin = 0;
    for (size_t l = 0; l < outputs.size(); ++l) {
      const int64_t count = outputs[l].reg.size(0) * outputs[l].reg.size(2) * outputs[l].reg.size(3);
      pixels.push_back(reg.narrow(0, begin, count) * context.levels[l].stride);
      begin += count;
    }
    reg = at::cat(pixels);
  }
  return reg.index_select(0, positives);
}

at::Tensor cls_normalizer(const at::Tensor& num_positives, int64_t locations,
                          const FcosLossContext& context) {
  const auto& kind = context.config.loss.cls_normalizer;
  if (kind == "all") return at::scalar_tensor(static_cast<double>(locations), num_positives.options());
  if (kind == "positives") return num_positives;
  const c10::AutoGradMode no_grad(false);
  auto moving = context.moving_positives;
  if (context.begins_step) moving.mul_(0.9).add_(num_positives, 0.1);
  return moving.clone();
}

}  // namespace

at::Tensor fcos_normalizers(const FcosTargets& targets, const at::Tensor& positives) {
  const auto count = at::full({1}, static_cast<double>(positives.size(0)), targets.reg.options());
  // The unit of the distances cancels out.
  return at::cat({count, centerness_of(targets.reg.index_select(0, positives)).sum().view(1)});
}

NamedTensors fcos_losses(const std::vector<HeadOutput>& outputs, const FcosTargets& targets,
                         const at::Tensor& positives, const FcosLossContext& context) {
  const auto& loss = context.config.loss;
  const bool predicts_iou = context.config.head.quality == "iou";
  const auto num_positives = context.normalizers[0].clamp_min(1);

  const auto reg = gather_positives(outputs, &HeadOutput::reg, positives);
  const auto quality = gather_positives(outputs, &HeadOutput::centerness, positives).squeeze(1);
  const auto reg_target = positive_targets(targets, positives, outputs, context);
  const auto centerness = centerness_of(reg_target);

  at::Tensor weight, box_normalizer = num_positives;
  if (!predicts_iou && loss.weight_by_centerness) {
    weight = centerness;
    box_normalizer = context.normalizers[1].clamp_min(1e-6);
  }
  const auto quality_target = predicts_iou ? box_iou(reg, reg_target, loss.iou_smoothing) : centerness;
  const auto quality_sum =
      at::binary_cross_entropy_with_logits(quality, quality_target, {}, {}, at::Reduction::Sum);
  const int64_t locations = targets.labels.size(0);
  return {{"loss_cls",
           classification(outputs, targets.labels, loss) / cls_normalizer(num_positives, locations, context)},
          {"loss_box", box_loss(reg, reg_target, weight, loss.box_loss, loss.iou_smoothing) / box_normalizer},
          {predicts_iou ? "loss_iou" : "loss_centerness", quality_sum / num_positives}};
}

}  // namespace instseg
