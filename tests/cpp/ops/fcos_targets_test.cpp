// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/fcos_targets.h"

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;
using test::same;

constexpr int64_t kClasses = 5;

// All locations against all boxes of one image, as the definition reads (FCOS section 3).
at::Tensor plain_owner(const TargetLevel& level, const Targets& image, const TargetConfig& config,
                       const at::Tensor& centers) {
  const at::Tensor xy = locations(level.grid, at::kCPU), boxes = image.boxes;
  if (boxes.size(0) == 0) return at::full({xy.size(0)}, -1, at::kLong);
  const at::Tensor low = boxes.narrow(1, 0, 2), high = boxes.narrow(1, 2, 2), p = xy.unsqueeze(1);
  const at::Tensor sides = at::cat({p - low, high - p}, 2);  // [L, G, 4]
  const at::Tensor center = centers.defined() ? centers : (low + high) / 2;
  const double radius = config.center_radius * level.stride;
  const at::Tensor largest = sides.amax(2);
  at::Tensor fits = sides.amin(2) > 0;
  if (config.rule == "torchvision") {
    fits = fits.logical_and(largest > level.lower).logical_and(largest < level.upper);
    if (radius > 0) fits = fits.logical_and((p - center).abs().amax(2) < radius);
  } else {
    fits = fits.logical_and(largest >= level.lower).logical_and(largest <= level.upper);
    const at::Tensor from = at::maximum(center - radius, low), to = at::minimum(center + radius, high);
    if (radius > 0) fits = fits.logical_and(at::cat({p - from, to - p}, 2).amin(2) > 0);
  }
  const at::Tensor area = (high - low).prod(1).expand_as(fits).masked_fill(fits.logical_not(), INFINITY);
  const auto [smallest, owner] = area.min(1);
  return owner.masked_fill(smallest == INFINITY, -1);
}

FcosTargets plain_targets(const std::vector<TargetLevel>& levels, const std::vector<Targets>& targets,
                          const TargetConfig& config, const std::vector<at::Tensor>& centers) {
  std::vector<at::Tensor> labels, reg, index;
  for (const TargetLevel& level : levels) {
    int64_t first = 0;
    for (size_t i = 0; i < targets.size(); ++i) {
      const at::Tensor owner =
          plain_owner(level, targets[i], config, centers.empty() ? at::Tensor() : centers[i]);
      const at::Tensor xy = locations(level.grid, at::kCPU), none = owner < 0;
      if (targets[i].boxes.size(0) == 0) {
        labels.push_back(at::full_like(owner, kClasses));
        reg.push_back(at::zeros({owner.size(0), 4}));
      } else {
        const at::Tensor own = owner.clamp_min(0), box = targets[i].boxes.index_select(0, own);
        const at::Tensor sides =
            at::cat({xy - box.narrow(1, 0, 2), box.narrow(1, 2, 2) - xy}, 1) / level.stride;
        labels.push_back(targets[i].labels.index_select(0, own).masked_fill(none, kClasses));
        reg.push_back(sides.masked_fill(none.unsqueeze(1), 0));
      }
      index.push_back((owner + first).masked_fill(none, -1));
      first += targets[i].boxes.size(0);
    }
  }
  return {at::cat(labels), at::cat(reg), at::cat(index)};
}

// Boxes with integer and half-integer sides: many distances fall exactly on a bound.
Targets random_image(int64_t count, double width, double height) {
  const at::Tensor extent = at::tensor({width, height}, at::kFloat);
  const at::Tensor a = (at::rand({count, 2}) * extent * 2).floor() / 2,
                   b = (at::rand({count, 2}) * extent * 2).floor() / 2;
  return {at::cat({at::minimum(a, b), at::maximum(a, b)}, 1), at::randint(0, kClasses, {count}, at::kLong)};
}

std::vector<TargetLevel> levels_for(int64_t height, int64_t width, int64_t offset_divisor) {
  std::vector<TargetLevel> levels;
  const double bounds[] = {-1, 64, 128, 256, 512, 1e8};
  for (int64_t l = 0; l < 5; ++l) {
    const int64_t stride = int64_t{8} << l, h = (height + stride - 1) / stride,
                  w = (width + stride - 1) / stride;
    const int64_t offset = offset_divisor == 0 ? 0 : stride / offset_divisor;
    levels.push_back({{h, w, stride, stride, offset}, static_cast<double>(stride), bounds[l], bounds[l + 1]});
  }
  return levels;
}

class FcosTargetsTest : public test::DeviceTest {
 protected:
  std::vector<Targets> moved(const std::vector<Targets>& targets) const {
    std::vector<Targets> out;
    for (const Targets& image : targets) out.push_back({here(image.boxes), here(image.labels)});
    return out;
  }

  void expect_twin(const std::vector<TargetLevel>& levels, const std::vector<Targets>& targets,
                   const TargetConfig& config, const std::vector<at::Tensor>& centers = {}) {
    std::vector<at::Tensor> there;
    for (const at::Tensor& center : centers) there.push_back(here(center));
    const FcosTargets ours = fcos_targets(levels, moved(targets), kClasses, config, there);
    const FcosTargets twin = plain_targets(levels, targets, config, centers);
    EXPECT_TRUE(same(ours.labels, twin.labels));
    EXPECT_TRUE(same(ours.gt_index, twin.gt_index));
    EXPECT_EQ(difference(ours.reg, twin.reg), 0);
  }

  // Label of the only cell, at (x, y), of a 1 x 1 level with bounds 0..64 px and stride 8.
  int64_t label_at(int64_t position, const at::Tensor& box, const TargetConfig& config, double lower = 0,
                   double upper = 64) {
    const TargetLevel level{{1, 1, 8, 8, position}, 8, lower, upper};
    const Targets image{here(box.view({1, 4})), here(at::zeros({1}, at::kLong))};
    return fcos_targets({level}, {image}, kClasses, config).labels.item<int64_t>();
  }
};
INSTSEG_ON_DEVICES(FcosTargetsTest);

TEST_P(FcosTargetsTest, MatchesTwin) {
  for (const char* rule : {"fcos", "torchvision"}) {
    for (const double radius : {0.0, 1.5, 2.25}) {
      TargetConfig config;
      config.rule = rule;
      config.center_radius = radius;
      const std::vector<Targets> targets = {random_image(40, 640, 480), random_image(0, 1, 1),
                                            random_image(7, 640, 480)};
      expect_twin(levels_for(480, 640, 2), targets, config);
      expect_twin(levels_for(480, 640, 0), targets, config);
    }
  }
}

TEST_P(FcosTargetsTest, CentersReplaceTheBoxCenters) {
  const std::vector<Targets> targets = {random_image(30, 640, 480), random_image(4, 640, 480)};
  std::vector<at::Tensor> centers;
  for (const Targets& image : targets) {
    const at::Tensor low = image.boxes.narrow(1, 0, 2), high = image.boxes.narrow(1, 2, 2);
    centers.push_back(low + at::rand(low.sizes()) * (high - low));
  }
  expect_twin(levels_for(480, 640, 2), targets, TargetConfig(), centers);
}

TEST_P(FcosTargetsTest, UnevenStepsAndBoxesBeyondTheMap) {
  std::vector<TargetLevel> levels = levels_for(160, 352, 0);
  levels[3].grid.step_x = 58;  // what torchvision computes at width 352
  levels[4].grid.step_x = 117;
  Targets image = random_image(30, 352, 160);
  image.boxes.narrow(1, 0, 2).sub_(90);
  image.boxes.narrow(1, 2, 2).add_(400);
  expect_twin(levels, {image, random_image(20, 352, 160)}, TargetConfig());
}

TEST_P(FcosTargetsTest, LevelBoundsAreClosedInFcosAndOpenInTorchvision) {
  TargetConfig fcos, torchvision;
  fcos.center_radius = torchvision.center_radius = 0;
  torchvision.rule = "torchvision";
  const at::Tensor box = at::tensor({0.f, 0.f, 84.f, 30.f});  // at 20: l 20, t 20, r 64, b 10
  EXPECT_EQ(label_at(20, box, fcos, 0, 64), 0);
  EXPECT_EQ(label_at(20, box, fcos, 64, 128), 0);
  EXPECT_EQ(label_at(20, box, fcos, 0, 63.999), kClasses);
  EXPECT_EQ(label_at(20, box, fcos, 64.001, 128), kClasses);
  EXPECT_EQ(label_at(20, box, torchvision, 0, 64), kClasses);
  EXPECT_EQ(label_at(20, box, torchvision, 64, 128), kClasses);
  EXPECT_EQ(label_at(20, box, torchvision, 63.999, 64.001), 0);
  EXPECT_EQ(label_at(20, box, torchvision, 63.999, INFINITY), 0);
}

TEST_P(FcosTargetsTest, SidesAndCenterRegionAreOpen) {
  TargetConfig config;
  EXPECT_EQ(label_at(20, at::tensor({20.f, 10.f, 30.f, 30.f}), config), kClasses);  // on the left side
  EXPECT_EQ(label_at(20, at::tensor({19.999f, 10.f, 30.f, 30.f}), config), 0);
  const at::Tensor edge = at::tensor({2.f, 10.f, 62.f, 30.f});  // center 32, region 20..44
  EXPECT_EQ(label_at(20, edge, config), kClasses);
  EXPECT_EQ(label_at(44, at::tensor({2.f, 34.f, 62.f, 54.f}), config), kClasses);
  EXPECT_EQ(label_at(20, at::tensor({1.999f, 10.f, 61.999f, 30.f}), config), 0);
  config.rule = "torchvision";
  EXPECT_EQ(label_at(20, edge, config), kClasses);
  EXPECT_EQ(label_at(21, edge, config), 0);
}

TEST_P(FcosTargetsTest, SmallestAreaWinsAndTheFirstOnTies) {
  const TargetLevel level{{1, 1, 8, 8, 20}, 8, 0, 64};
  const at::Tensor boxes =
      at::tensor({0.f, 0.f, 40.f, 40.f, 10.f, 15.f, 30.f, 25.f, 15.f, 10.f, 25.f, 30.f}).view({3, 4});
  const at::Tensor labels = at::tensor({int64_t{0}, int64_t{3}, int64_t{4}});
  const FcosTargets out = fcos_targets({level}, moved({{boxes, labels}}), kClasses, TargetConfig());
  EXPECT_EQ(out.labels.item<int64_t>(), 3);
  EXPECT_EQ(out.gt_index.item<int64_t>(), 1);
  EXPECT_TRUE(same(out.reg, at::tensor({10 / 8.f, 5 / 8.f, 10 / 8.f, 5 / 8.f}).view({1, 4})));
}

TEST_P(FcosTargetsTest, NoBoxesNoImages) {
  const auto levels = levels_for(64, 64, 2);
  const FcosTargets empty = fcos_targets(levels, moved({random_image(0, 1, 1)}), kClasses, TargetConfig());
  EXPECT_TRUE((empty.labels == kClasses).all().item<bool>());
  EXPECT_TRUE((empty.gt_index == -1).all().item<bool>());
  EXPECT_EQ(empty.reg.abs().sum().item<float>(), 0);
  EXPECT_EQ(fcos_targets(levels, {}, kClasses, TargetConfig()).labels.size(0), 0);
  EXPECT_EQ(fcos_targets({}, moved({random_image(2, 9, 9)}), kClasses, TargetConfig()).labels.size(0), 0);
}

TEST_P(FcosTargetsTest, RejectsBadInput) {
  const auto levels = levels_for(64, 64, 2);
  const at::Tensor boxes = here(at::ones({2, 4})), labels = here(at::zeros({2}, at::kLong));
  const auto call = [&](Targets image, TargetConfig config = {}, std::vector<at::Tensor> centers = {}) {
    return [=] { fcos_targets(levels, {image}, kClasses, config, centers); };
  };
  expect_error<ValueError>(call({here(at::ones({2, 5})), labels}), "boxes has shape [2, 5]");
  expect_error<ValueError>(call({boxes, here(at::zeros({3}, at::kLong))}), "labels has shape [3]");
  expect_error<TypeError>(call({boxes.to(at::kDouble), labels}), "boxes is Double");
  expect_error<TypeError>(call({boxes, labels.to(at::kInt)}), "labels is Int");
  expect_error<ValueError>(call({boxes, labels}, {}, {boxes, boxes}), "2 centers for 1 images");
  expect_error<ValueError>(call({boxes, labels}, {}, {boxes}), "centers have shape [2, 4]");
  TargetConfig config;
  config.rule = "atss";
  expect_error<ValueError>(call({boxes, labels}, config), "rule 'atss' is not one of");
  config = {};
  config.center_radius = -1;
  expect_error<ValueError>(call({boxes, labels}, config), "center_radius is -1");
  if (GetParam() == at::kCPU) {
    expect_error<ValueError>(call({boxes, at::full({2}, kClasses, at::kLong)}),
                             "label 5 of box 0 is outside 0..4");
  }
}

TEST_P(FcosTargetsTest, Centerness) {
  const at::Tensor reg =
      at::tensor({1.f, 2.f, 4.f, 2.f, 3.f, 3.f, 3.f, 3.f, 0.f, 0.f, 0.f, 0.f}).view({3, 4});
  EXPECT_LE(difference(centerness_of(here(reg)), at::tensor({0.5f, 1.f, 0.f})), 1e-7);
  EXPECT_EQ(centerness_of(here(at::empty({0, 4}))).size(0), 0);
  expect_error<ValueError>([&] { centerness_of(here(at::ones({4}))); }, "reg has shape [4]");
}

}  // namespace
}  // namespace instseg
