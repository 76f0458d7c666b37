// SPDX-License-Identifier: Apache-2.0
#include "models/fcos.h"

#include <ATen/ops/full.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>

#include "instseg/error.h"
#include "instseg/ops/fcos_decode.h"
#include "instseg/ops/fcos_targets.h"
#include "layers/backbone.h"
#include "layers/fcos_head.h"
#include "layers/fpn.h"
#include "losses/fcos_losses.h"
#include "models/check_batch.h"
#include "models/detections.h"

namespace instseg {
namespace {

constexpr double kNoUpperBound = 1e8;  // px

void synchronize(const at::Tensor& tensor) {
  const c10::impl::VirtualGuardImpl guard(tensor.device().type());
  guard.synchronizeStream(guard.getStream(tensor.device()));
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void check_targets(const ImageBatch& batch, const std::vector<Targets>& targets, int64_t num_classes) {
  check<ValueError>(targets.size() == batch.sizes.size(), "[losses] ", targets.size(), " targets for ",
                    batch.sizes.size(), " images");
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto& [boxes, labels] = targets[i];
    check<ValueError>(boxes.defined() && boxes.dim() == 2 && boxes.size(1) == 4 && labels.defined() &&
                          labels.dim() == 1 && labels.size(0) == boxes.size(0),
                      "[losses] targets of image ", i, ": boxes must be [G, 4] and labels [G]");
    if (labels.numel() == 0) continue;
    const auto low = labels.min().item<int64_t>(), high = labels.max().item<int64_t>();
    check<ValueError>(low >= 0 && high < num_classes, "[losses] targets of image ", i, ": label ",
                      low < 0 ? low : high, " is outside 0..", num_classes - 1);
  }
}

class Fcos : public Model {
 public:
  explicit Fcos(const ModelConfig& config)
      : Model(config),
        backbone_(register_module("backbone", make_backbone(config.backbone))),
        neck_(register_module("neck", std::make_shared<Fpn>(config.neck, backbone_->channels()))),
        head_(register_module(
            "head", std::make_shared<FcosHead>(config.head, config.neck.channels, config.num_classes,
                                               config.neck.max_level - config.neck.min_level + 1))) {
    if (config.loss.cls_normalizer == "moving") {
      moving_positives_ = register_buffer("moving_positives", at::full({}, 100.0));
    }
  }

  NamedTensors losses(const ImageBatch& batch, const std::vector<Targets>& targets) override {
    check<Error>(!lowered_, "[losses] the model was lowered for inference and cannot be trained");
    check_batch(batch, "losses");
    check_targets(batch, targets, config_.num_classes);
    const auto outputs = forward(batch);
    const auto levels = target_levels(batch, outputs);
    const auto assigned =
        fcos_targets(levels, on_device(targets, batch.pixels.device()), config_.num_classes, config_.targets);
    return fcos_losses(outputs, assigned, {config_, levels, reduce_mean_, moving_positives_});
  }

  std::vector<Instances> detect(const ImageBatch& batch) override {
    check_batch(batch, "detect");
    const c10::AutoGradMode no_grad(false);
    const auto start = std::chrono::steady_clock::now();
    const auto outputs = forward(batch);
    if (batch.pixels.is_cuda())
      synchronize(batch.pixels);  // stage times are of work done, not of work queued
    times_.network = milliseconds_since(start);

    const auto post_start = std::chrono::steady_clock::now();
    std::vector<FcosLevel> levels;
    for (size_t l = 0; l < outputs.size(); ++l) {
      const auto& [logits, reg, centerness, _] = outputs[l];
      levels.push_back({logits, reg, centerness, grid(batch, outputs, l), unit(l)});
    }
    const auto candidates = fcos_decode(levels, config_.post, batch.sizes);
    std::vector<Instances> results;
    for (size_t i = 0; i < candidates.size(); ++i) {
      const auto keep = select_detections(candidates[i], config_.post);
      results.push_back(
          to_original(candidates[i].boxes.index_select(0, keep), candidates[i].scores.index_select(0, keep),
                      candidates[i].labels.index_select(0, keep), batch.sizes[i], batch.original_sizes[i]));
    }
    times_.postprocess = milliseconds_since(post_start);
    return results;
  }

  NamedTensors intermediates(const ImageBatch& batch) override {
    check_batch(batch, "intermediates");
    const c10::AutoGradMode no_grad(false);
    NamedTensors named = {{"input", batch.pixels}};
    const auto taps = backbone_->forward(batch.pixels.to(dtype_));
    for (size_t i = 0; i < taps.size(); ++i) named.emplace_back(join("res", i + 2), taps[i].clone());
    const auto features = neck_->forward(taps);
    const auto outputs = head_->forward(features);
    for (size_t l = 0; l < features.size(); ++l) {
      const auto level = join("p", config_.neck.min_level + static_cast<int64_t>(l));
      named.emplace_back(level, features[l]);
      named.emplace_back("logits." + level, outputs[l].logits);
      named.emplace_back("reg." + level, outputs[l].reg);
      named.emplace_back("ctr." + level, outputs[l].centerness);
    }
    return named;
  }

  void lower(at::ScalarType dtype) override {
    check<Error>(!lowered_, "[lower] the model was lowered before");
    eval();
    lower_units(*backbone_, dtype);
    lower_units(*neck_, dtype);
    head_->lower(dtype);
    dtype_ = dtype;
    lowered_ = true;
  }

 private:
  std::vector<HeadOutput> forward(const ImageBatch& batch) {
    return head_->forward(neck_->forward(backbone_->forward(batch.pixels.to(dtype_))));
  }

  int64_t stride(size_t level) const {
    return int64_t{1} << (config_.neck.min_level + static_cast<int64_t>(level));
  }

  double unit(size_t level) const {
    return config_.head.stride_units ? static_cast<double>(stride(level)) : 1.0;
  }

  LocationGrid grid(const ImageBatch& batch, const std::vector<HeadOutput>& outputs, size_t level) const {
    const int64_t height = outputs[level].logits.size(2), width = outputs[level].logits.size(3);
    if (config_.head.location_offset == "half") {
      return {height, width, stride(level), stride(level), stride(level) / 2};
    }
    return {height, width, batch.pixels.size(3) / width, batch.pixels.size(2) / height, 0};
  }

  std::vector<TargetLevel> target_levels(const ImageBatch& batch,
                                         const std::vector<HeadOutput>& outputs) const {
    const auto& sizes = config_.targets.sizes_of_interest;
    const bool fixed_sizes = config_.targets.rule == "torchvision";
    std::vector<TargetLevel> levels;
    for (size_t l = 0; l < outputs.size(); ++l) {
      const auto s = static_cast<double>(stride(l));
      const bool first = l == 0, last = l + 1 == outputs.size();
      TargetLevel level{.grid = grid(batch, outputs, l), .stride = s};
      if (fixed_sizes) {
        level.lower = first ? 0 : 4 * s;
        level.upper = last ? kNoUpperBound : 8 * s;
      } else {
        level.lower = first ? -1 : static_cast<double>(sizes[l - 1]);
        level.upper = last ? kNoUpperBound : static_cast<double>(sizes[l]);
      }
      levels.push_back(level);
    }
    return levels;
  }

  static std::vector<Targets> on_device(const std::vector<Targets>& targets, at::Device device) {
    std::vector<Targets> moved;
    for (const auto& t : targets)
      moved.push_back({t.boxes.to(device, at::kFloat), t.labels.to(device, at::kLong)});
    return moved;
  }

  std::shared_ptr<Backbone> backbone_;
  std::shared_ptr<Fpn> neck_;
  std::shared_ptr<FcosHead> head_;
  at::Tensor moving_positives_;
  at::ScalarType dtype_ = at::kFloat;
  bool lowered_ = false;
};

}  // namespace

std::shared_ptr<Model> make_fcos(const ModelConfig& config) { return std::make_shared<Fcos>(config); }

}  // namespace instseg
