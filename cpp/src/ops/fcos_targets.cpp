// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/fcos_targets.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>

#include <limits>

#include "kernels/fcos_targets.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

using kernels::AssignLevel;
using kernels::AssignRule;

// The boxes of the whole batch in one piece; image i owns rows starts[i]..starts[i+1]-1.
struct Batch {
  at::Tensor boxes, labels, centers;  // [G, 4] float32, [G] int64, [G, 2] float32 or undefined
  std::vector<int64_t> starts;
  int64_t images() const { return static_cast<int64_t>(starts.size()) - 1; }
};

AssignRule parse_rule(const TargetConfig& config) {
  if (config.rule == "fcos") return AssignRule::fcos;
  check<ValueError>(config.rule == "torchvision", "[fcos_targets] rule '", config.rule,
                    "' is not one of fcos, torchvision");
  return AssignRule::torchvision;
}

void check_labels(const at::Tensor& labels, int64_t num_classes) {
  if (!labels.is_cpu()) return;  // looking would make the device wait
  const at::Tensor plain = labels.contiguous();
  const int64_t* values = plain.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < plain.numel(); ++i) {
    check<ValueError>(values[i] >= 0 && values[i] < num_classes, "[fcos_targets] label ", values[i],
                      " of box ", i, " is outside 0..", num_classes - 1);
  }
}

void check_targets(const std::vector<Targets>& targets, const std::vector<at::Tensor>& centers,
                   int64_t num_classes) {
  check<ValueError>(centers.empty() || centers.size() == targets.size(), "[fcos_targets] ", centers.size(),
                    " centers for ", targets.size(), " images; give one tensor per image or none");
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto &boxes = targets[i].boxes, &labels = targets[i].labels;
    check_rows_of_four("fcos_targets", "boxes", boxes);
    check_vector("fcos_targets", "labels", labels, boxes.size(0));
    check_dtype("fcos_targets", "boxes", boxes, at::kFloat);
    check_dtype("fcos_targets", "labels", labels, at::kLong);
    check_device("fcos_targets", boxes.device());
    check_same_device("fcos_targets", "boxes", boxes, targets[0].boxes.device());
    check_same_device("fcos_targets", "labels", labels, boxes.device());
    check_labels(labels, num_classes);
    if (centers.empty()) continue;
    check_defined("fcos_targets", "centers", centers[i]);
    check<ValueError>(centers[i].dim() == 2 && centers[i].size(0) == boxes.size(0) && centers[i].size(1) == 2,
                      "[fcos_targets] centers have shape ", centers[i].sizes(), "; expected [", boxes.size(0),
                      ", 2]");
    check_dtype("fcos_targets", "centers", centers[i], at::kFloat);
    check_same_device("fcos_targets", "centers", centers[i], boxes.device());
  }
}

Batch gather(const std::vector<Targets>& targets, const std::vector<at::Tensor>& centers) {
  Batch batch;
  batch.starts.push_back(0);
  std::vector<at::Tensor> boxes, labels;
  for (const Targets& image : targets) {
    boxes.push_back(image.boxes.detach());
    labels.push_back(image.labels);
    batch.starts.push_back(batch.starts.back() + image.boxes.size(0));
  }
  if (targets.empty()) return batch;
  batch.boxes = at::cat(boxes).contiguous();
  batch.labels = at::cat(labels).contiguous();
  if (!centers.empty()) batch.centers = at::cat(centers).detach().contiguous();
  return batch;
}

std::vector<AssignLevel> assign_levels(const std::vector<TargetLevel>& levels, double radius, int64_t images,
                                       int64_t* total) {
  std::vector<AssignLevel> out;
  *total = 0;
  for (const TargetLevel& level : levels) {
    const LocationGrid& grid = level.grid;
    check<ValueError>(
        grid.height >= 0 && grid.width >= 0 && grid.step_x > 0 && grid.step_y > 0 && level.stride > 0,
        "[fcos_targets] level of ", grid.height, " x ", grid.width, " cells, steps ", grid.step_x, ", ",
        grid.step_y, ", stride ", level.stride, "; sizes must be >= 0 and steps > 0");
    const auto bound = [](double value) {  // an infinite bound stays one
      return value > std::numeric_limits<float>::max() ? std::numeric_limits<float>::infinity()
                                                       : static_cast<float>(value);
    };
    out.push_back({grid.height, grid.width, grid.step_x, grid.step_y, grid.offset,
                   static_cast<float>(radius * level.stride), bound(level.lower), bound(level.upper),
                   static_cast<float>(level.stride), *total});
    *total += images * grid.height * grid.width;
  }
  return out;
}

void run_cpu(const std::vector<AssignLevel>& levels, AssignRule rule, const Batch& batch, FcosTargets& out) {
  const float* boxes = batch.boxes.const_data_ptr<float>();
  const int64_t* labels = batch.labels.const_data_ptr<int64_t>();
  const float* centers = batch.centers.defined() ? batch.centers.const_data_ptr<float>() : nullptr;
  int64_t* out_labels = out.labels.mutable_data_ptr<int64_t>();
  float* out_reg = out.reg.mutable_data_ptr<float>();
  int64_t* out_gt = out.gt_index.mutable_data_ptr<int64_t>();
  const int64_t images = batch.images();
  at::parallel_for(0, images * static_cast<int64_t>(levels.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const AssignLevel& level = levels[task / images];
      const int64_t image = task % images, first = batch.starts[image];
      const int64_t row = level.first + image * level.height * level.width;
      kernels::assign_cpu(level, rule, boxes + 4 * first, labels + first,
                          centers ? centers + 2 * first : nullptr, batch.starts[image + 1] - first, first,
                          out_labels + row, out_reg + 4 * row, out_gt + row);
    }
  });
}

void run_cuda(const std::vector<AssignLevel>& levels, AssignRule rule, const Batch& batch, int64_t background,
              FcosTargets& out) {
  const c10::DeviceGuard guard(batch.boxes.device());
  const at::Tensor starts = at::tensor(batch.starts, at::kLong).to(batch.boxes.device());
  for (const AssignLevel& level : levels) {
    kernels::assign_cuda(level, rule, batch.boxes.const_data_ptr<float>(),
                         batch.labels.const_data_ptr<int64_t>(),
                         batch.centers.defined() ? batch.centers.const_data_ptr<float>() : nullptr,
                         starts.const_data_ptr<int64_t>(), batch.images(), background,
                         out.labels.mutable_data_ptr<int64_t>(), out.reg.mutable_data_ptr<float>(),
                         out.gt_index.mutable_data_ptr<int64_t>(), current_stream(batch.boxes));
  }
}

}  // namespace

FcosTargets fcos_targets(const std::vector<TargetLevel>& levels, const std::vector<Targets>& targets,
                         int64_t num_classes, const TargetConfig& config,
                         const std::vector<at::Tensor>& centers) {
  const AssignRule rule = parse_rule(config);
  check<ValueError>(config.center_radius >= 0, "[fcos_targets] center_radius is ", config.center_radius,
                    "; use a value >= 0");
  check_targets(targets, centers, num_classes);
  const Batch batch = gather(targets, centers);
  int64_t total = 0;
  const auto grids = assign_levels(levels, config.center_radius, batch.images(), &total);
  const auto options = at::TensorOptions(targets.empty() ? at::kCPU : targets[0].boxes.device());
  FcosTargets out;
  out.labels = at::full({total}, num_classes, options.dtype(at::kLong));
  out.reg = at::zeros({total, 4}, options.dtype(at::kFloat));
  out.gt_index = at::full({total}, -1, options.dtype(at::kLong));
  if (total == 0 || batch.starts.back() == 0) return out;
  if (batch.boxes.is_cpu()) {
    run_cpu(grids, rule, batch, out);
  } else {
    run_cuda(grids, rule, batch, num_classes, out);
  }
  return out;
}

at::Tensor centerness_of(const at::Tensor& reg) {
  check_rows_of_four("centerness_of", "reg", reg);
  const at::Tensor r = reg.to(at::kFloat);
  const auto ratio = [&](int64_t side) {
    const at::Tensor a = r.select(1, side), b = r.select(1, side + 2);
    // Background rows (all 0) give 0 instead of 0/0.
    return at::minimum(a, b) / at::maximum(a, b).clamp_min(std::numeric_limits<float>::min());
  };
  return at::sqrt(ratio(0) * ratio(1));
}

}  // namespace instseg
