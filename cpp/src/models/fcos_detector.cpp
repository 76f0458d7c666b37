// SPDX-License-Identifier: Apache-2.0
#include "models/fcos_detector.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bucketize.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include "instseg/error.h"
#include "instseg/ops/fcos_decode.h"
#include "losses/fcos_losses.h"
#include "models/check_batch.h"
#include "models/detections.h"
#include "models/stage_clock.h"

namespace instseg {
namespace {

constexpr double kNoUpperBound = 1e8;  // px

void check_targets(const ImageBatch& batch, const std::vector<Targets>& targets, int64_t num_classes) {
  check<ValueError>(targets.size() == batch.sizes.size(), "[losses] ", targets.size(), " targets for ",
                    batch.sizes.size(), " images");
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto &boxes = targets[i].boxes, &labels = targets[i].labels;
    check<ValueError>(boxes.defined() && boxes.dim() == 2 && boxes.size(1) == 4 && labels.defined() &&
                          labels.dim() == 1 && labels.size(0) == boxes.size(0),
                      "[losses] targets of image ", i, ": boxes must be [G, 4] and labels [G]");
    if (labels.numel() == 0) continue;
    const auto low = labels.min().item<int64_t>(), high = labels.max().item<int64_t>();
    check<ValueError>(low >= 0 && high < num_classes, "[losses] targets of image ", i, ": label ",
                      low < 0 ? low : high, " is outside 0..", num_classes - 1);
  }
}

std::vector<Targets> on_device(const std::vector<Targets>& targets, at::Device device) {
  std::vector<Targets> moved;  // without masks, which stay where they are
  for (const auto& t : targets) {
    moved.push_back({.boxes = t.boxes.to(device, at::kFloat), .labels = t.labels.to(device, at::kLong)});
  }
  return moved;
}

/** One number per level, picked by `levels` [M]. */
at::Tensor per_level(const std::vector<int64_t>& values, const at::Tensor& levels) {
  return at::tensor(values, at::kLong).to(levels.device()).index_select(0, levels);
}

/** Cells at `index` [P] into all locations: levels outermost, then images, then positions. */
Cells cells_at(const at::Tensor& index, const std::vector<TargetLevel>& levels, int64_t images) {
  std::vector<int64_t> starts, sizes;
  int64_t start = 0;
  for (const auto& level : levels) {
    starts.push_back(start);
    sizes.push_back(level.grid.height * level.grid.width);
    start += images * sizes.back();
  }
  const auto bounds = at::tensor(starts, at::kLong).to(index.device());
  const auto of = at::bucketize(index, bounds, /*out_int32=*/false, /*right=*/true) - 1;
  const auto within = index - per_level(starts, of);
  const auto size = per_level(sizes, of);
  return {of, within.div(size, "floor"), within.remainder(size)};
}

}  // namespace

Cells Cells::select(const at::Tensor& index) const {
  return {levels.index_select(0, index), images.index_select(0, index), positions.index_select(0, index)};
}

std::vector<at::Tensor> box_towers(const FcosForward& forward) {
  std::vector<at::Tensor> maps;
  for (const auto& output : forward.outputs) maps.push_back(output.box_tower);
  return maps;
}

FcosDetector::FcosDetector(const ModelConfig& config)
    : Model(config),
      backbone_(register_module("backbone", make_backbone(config.backbone))),
      neck_(register_module("neck", std::make_shared<Fpn>(config.neck, backbone_->channels()))),
      head_(register_module("head",
                            std::make_shared<FcosHead>(config.head, config.neck.channels, config.num_classes,
                                                       config.neck.max_level - config.neck.min_level + 1))) {
  if (config.loss.cls_normalizer == "moving") {
    moving_positives_ = register_buffer("moving_positives", at::full({}, 100.0));
  }
}

/** Which location learns which object; made without running the network. */
struct FcosDetector::Assignment {
  at::Tensor boxes;  // [G, 4] of all images
  std::vector<RasterizedMasks> masks;
  std::vector<TargetLevel> levels;
  FcosTargets targets;
  at::Tensor index;  // [P] int64, the positives among all locations
  Cells positives;
  at::Tensor gt_index;     // [P]
  at::Tensor normalizers;  // [K], of this batch alone
};

FcosDetector::Assignment FcosDetector::assign(const ImageBatch& batch, const std::vector<Targets>& targets) {
  check_batch(batch, "losses");
  check_targets(batch, targets, config_.num_classes);
  const auto device = batch.pixels.device();
  const auto objects = on_device(targets, device);
  Assignment a{.masks = rasterized(batch, targets), .levels = target_levels(batch)};
  std::vector<at::Tensor> centers, boxes;
  for (const auto& mask : a.masks) centers.push_back(mask.centers.to(device));
  for (const auto& image : objects) boxes.push_back(image.boxes);
  a.boxes = at::cat(boxes);
  a.targets = fcos_targets(a.levels, objects, config_.num_classes, config_.targets, centers);
  a.index = at::nonzero(a.targets.gt_index.ge(0)).squeeze(1);
  a.positives = cells_at(a.index, a.levels, batch.pixels.size(0));
  a.gt_index = a.targets.gt_index.index_select(0, a.index);
  a.normalizers = fcos_normalizers(a.targets, a.index);
  const auto own = own_normalizers(a.positives.images, a.gt_index);
  if (!own.empty()) a.normalizers = at::cat({a.normalizers, at::tensor(own, a.normalizers.options())});
  return a;
}

at::Tensor FcosDetector::normalizers(const ImageBatch& batch, const std::vector<Targets>& targets) {
  return assign(batch, targets).normalizers;
}

NamedTensors FcosDetector::losses(const ImageBatch& batch, const std::vector<Targets>& targets) {
  check<Error>(!lowered_, "[losses] the model was lowered for inference and cannot be trained");
  const auto a = assign(batch, targets);
  const auto normalizers = over_parts(a.normalizers);
  const auto network = forward(batch);
  auto terms = fcos_losses(network.outputs, a.targets, a.index,
                           {config_, a.levels, normalizers, moving_positives_, begins_step()});
  add_losses({.batch = batch,
              .targets = targets,
              .boxes = a.boxes,
              .forward = network,
              .positives = a.positives,
              .gt_index = a.gt_index,
              .reg = a.targets.reg.index_select(0, a.index),
              .rasterized = a.masks,
              .normalizers = normalizers},
             terms);
  return terms;
}

std::vector<Instances> FcosDetector::detect(const ImageBatch& batch) {
  check_batch(batch, "detect");
  const c10::AutoGradMode no_grad(false);
  StageClock clock(batch.pixels);
  const auto network = forward(batch);
  const auto map = mask_map(network);
  times_.network = clock.lap();

  std::vector<FcosLevel> levels;
  for (size_t l = 0; l < network.outputs.size(); ++l) {
    const auto& [logits, reg, centerness, _] = network.outputs[l];
    levels.push_back({logits, reg, centerness, grid(batch, l), unit(l)});
  }
  const auto candidates = fcos_decode(levels, config_.post, batch.sizes);
  std::vector<Instances> results;
  std::vector<at::Tensor> boxes, of_level, positions, images;
  Found found;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const auto& all = candidates[i];
    auto keep = select_detections(all, config_.post);
    auto [instances, kept] =
        to_original(all.boxes.index_select(0, keep), all.scores.index_select(0, keep),
                    all.labels.index_select(0, keep), batch.sizes[i], batch.original_sizes[i]);
    keep = keep.index_select(0, kept);
    boxes.push_back(all.boxes.index_select(0, keep));
    of_level.push_back(all.levels.index_select(0, keep));
    positions.push_back(all.positions.index_select(0, keep));
    images.push_back(at::full({keep.size(0)}, static_cast<int64_t>(i), keep.options()));
    found.counts.push_back(keep.size(0));
    results.push_back(std::move(instances));
  }
  found.cells = {at::cat(of_level), at::cat(images), at::cat(positions)};
  found.boxes = at::cat(boxes);
  add_masks(batch, network, map, found, results);
  times_.postprocess = clock.lap();
  return results;
}

NamedTensors FcosDetector::intermediates(const ImageBatch& batch) {
  check_batch(batch, "intermediates");
  const c10::AutoGradMode no_grad(false);
  NamedTensors named = {{"input", batch.pixels}};
  FcosForward network;
  network.taps = backbone_->forward(batch.pixels.to(dtype_));
  for (size_t i = 0; i < network.taps.size(); ++i) {
    named.emplace_back(join("res", i + 2), network.taps[i].clone());
  }
  network.features = neck_->forward(network.taps);
  network.outputs = head_->forward(network.features);
  for (size_t l = 0; l < network.features.size(); ++l) {
    const auto level = join("p", config_.neck.min_level + static_cast<int64_t>(l));
    named.emplace_back(level, network.features[l]);
    named.emplace_back("logits." + level, network.outputs[l].logits);
    named.emplace_back("reg." + level, network.outputs[l].reg);
    named.emplace_back("ctr." + level, network.outputs[l].centerness);
  }
  add_intermediates(network, named);
  return named;
}

void FcosDetector::lower(at::ScalarType dtype) {
  check<Error>(!lowered_, "[lower] the model was lowered before");
  eval();
  lower_units(*backbone_, dtype);
  neck_->lower(dtype);
  head_->lower(dtype);
  lower_masks(dtype);
  dtype_ = dtype;
  lowered_ = true;
}

at::Tensor FcosDetector::locations_of(const ImageBatch& batch, const Cells& cells) const {
  std::vector<int64_t> widths, steps_x, steps_y, offsets;
  for (size_t l = 0; l < num_levels(); ++l) {
    const auto g = grid(batch, l);
    widths.push_back(g.width);
    steps_x.push_back(g.step_x);
    steps_y.push_back(g.step_y);
    offsets.push_back(g.offset);
  }
  const auto width = per_level(widths, cells.levels), offset = per_level(offsets, cells.levels);
  const auto x = cells.positions.remainder(width) * per_level(steps_x, cells.levels) + offset;
  const auto y = cells.positions.div(width, "floor") * per_level(steps_y, cells.levels) + offset;
  return at::stack({x, y}, 1).to(at::kFloat);
}

std::vector<RasterizedMasks> FcosDetector::rasterized(const ImageBatch&, const std::vector<Targets>&) {
  return {};
}
std::vector<double> FcosDetector::own_normalizers(const at::Tensor&, const at::Tensor&) const { return {}; }
void FcosDetector::add_losses(const TrainStep&, NamedTensors&) {}
at::Tensor FcosDetector::mask_map(const FcosForward&) { return {}; }
void FcosDetector::add_masks(const ImageBatch&, const FcosForward&, const at::Tensor&, const Found&,
                             std::vector<Instances>&) {}
void FcosDetector::add_intermediates(const FcosForward&, NamedTensors&) {}
void FcosDetector::lower_masks(at::ScalarType) {}

FcosForward FcosDetector::forward(const ImageBatch& batch) {
  FcosForward network;
  network.taps = backbone_->forward(batch.pixels.to(dtype_));
  network.features = neck_->forward(network.taps);
  network.outputs = head_->forward(network.features);
  return network;
}

int64_t FcosDetector::stride(size_t level) const {
  return int64_t{1} << (config_.neck.min_level + static_cast<int64_t>(level));
}

double FcosDetector::unit(size_t level) const {
  return config_.head.stride_units ? static_cast<double>(stride(level)) : 1.0;
}

LocationGrid FcosDetector::grid(const ImageBatch& batch, size_t level) const {
  const auto cells = [&](int64_t pixels) { return (pixels + stride(level) - 1) / stride(level); };
  const int64_t height = cells(batch.pixels.size(2)), width = cells(batch.pixels.size(3));
  if (config_.head.location_offset == "half") {
    return {height, width, stride(level), stride(level), stride(level) / 2};
  }
  return {height, width, batch.pixels.size(3) / width, batch.pixels.size(2) / height, 0};
}

std::vector<TargetLevel> FcosDetector::target_levels(const ImageBatch& batch) const {
  const auto& sizes = config_.targets.sizes_of_interest;
  const bool fixed_sizes = config_.targets.rule == "torchvision";
  std::vector<TargetLevel> levels;
  for (size_t l = 0; l < num_levels(); ++l) {
    const auto s = static_cast<double>(stride(l));
    const bool first = l == 0, last = l + 1 == num_levels();
    TargetLevel level{.grid = grid(batch, l), .stride = s};
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

}  // namespace instseg
