// SPDX-License-Identifier: Apache-2.0
#include "losses/fcos_losses.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "networks.h"

namespace instseg {
namespace {

constexpr int64_t kClasses = 3;

/** Two levels (strides 8 and 16), one image, three positives: two on the first level, one on the second. */
struct Scene {
  std::vector<HeadOutput> outputs;
  std::vector<TargetLevel> levels;
  FcosTargets targets;
  std::vector<int64_t> positives = {1, 4, 9};

  Scene() {
    at::manual_seed(1);
    for (const int64_t side : {3, 2}) {
      const auto stride = side == 3 ? 8 : 16;
      outputs.push_back({at::randn({1, kClasses, side, side}),
                         at::randn({1, 4, side, side}).abs() + 0.5,
                         at::randn({1, 1, side, side}),
                         {}});
      levels.push_back(
          {.grid = {side, side, stride, stride, stride / 2}, .stride = static_cast<double>(stride)});
    }
    targets.labels = at::full({13}, kClasses, at::kLong);
    targets.gt_index = at::full({13}, -1, at::kLong);
    targets.reg = at::zeros({13, 4});
    for (const auto p : positives) {
      targets.labels[p] = p % kClasses;
      targets.gt_index[p] = 0;
      targets.reg[p] = at::randn({4}).abs() + 0.5;
    }
  }

  /** Values of one head output at the positives, [3, C]. */
  at::Tensor at_positives(at::Tensor HeadOutput::* member) const {
    std::vector<at::Tensor> flat;
    for (const auto& o : outputs) flat.push_back((o.*member).flatten(2)[0].t());
    return at::cat(flat).index_select(0, at::tensor(positives));
  }
};

double iou(const float* a, const float* b, double smoothing) {
  const double w = std::min(a[0], b[0]) + std::min(a[2], b[2]),
               h = std::min(a[1], b[1]) + std::min(a[3], b[3]);
  const double area = (a[0] + a[2]) * (a[1] + a[3]) + (b[0] + b[2]) * (b[1] + b[3]);
  return (w * h + smoothing) / (area - w * h + smoothing);
}

double binary_cross_entropy(double logit, double target) {
  const double p = 1 / (1 + std::exp(-logit));
  return -(target * std::log(p) + (1 - target) * std::log(1 - p));
}

NamedTensors run(const Scene& scene, const ModelConfig& config, at::Tensor moving = {},
                 bool begins_step = true) {
  const auto positives = at::tensor(scene.positives);
  return fcos_losses(
      scene.outputs, scene.targets, positives,
      {config, scene.levels, fcos_normalizers(scene.targets, positives), std::move(moving), begins_step});
}

TEST(FcosLosses, IouQualityEqualsTheFormula) {
  const Scene scene;
  ModelConfig config;
  config.num_classes = kClasses;
  config.head.quality = "iou";
  config.loss.box_loss = "linear_iou";
  const auto reg = scene.at_positives(&HeadOutput::reg).contiguous();
  const auto logits = scene.at_positives(&HeadOutput::centerness).contiguous();
  double box = 0, quality = 0;
  for (int64_t i = 0; i < 3; ++i) {
    const double overlap = iou(reg[i].const_data_ptr<float>(),
                               scene.targets.reg[scene.positives[i]].const_data_ptr<float>(), 1.0);
    box += 1 - overlap;
    quality += binary_cross_entropy(logits[i].item<float>(), overlap);
  }
  const auto losses = run(scene, config);
  EXPECT_EQ(losses[2].first, "loss_iou");
  EXPECT_NEAR(losses[1].second.item<float>(), box / 3, 1e-5);
  EXPECT_NEAR(losses[2].second.item<float>(), quality / 3, 1e-5);
}

TEST(FcosLosses, CenternessWeightsTheBoxesWithItsOwnDenominator) {
  const Scene scene;
  ModelConfig config;
  config.num_classes = kClasses;
  config.loss.box_loss = "iou";
  const auto reg = scene.at_positives(&HeadOutput::reg).contiguous();
  double weighted = 0, weights = 0;
  for (int64_t i = 0; i < 3; ++i) {
    const float* t = scene.targets.reg[scene.positives[i]].const_data_ptr<float>();
    const double c =
        std::sqrt(std::min(t[0], t[2]) / std::max(t[0], t[2]) * std::min(t[1], t[3]) / std::max(t[1], t[3]));
    weighted -= c * std::log(iou(reg[i].const_data_ptr<float>(), t, 1.0));
    weights += c;
  }
  EXPECT_NEAR(run(scene, config)[1].second.item<float>(), weighted / weights, 1e-5);
}

TEST(FcosLosses, PixelUnitsScaleTheTargetsByTheStride) {
  Scene scene;
  ModelConfig config;
  config.num_classes = kClasses;
  config.head.stride_units = false;
  config.loss.weight_by_centerness = false;
  config.loss.iou_smoothing = 0;
  auto in_strides = config;
  in_strides.head.stride_units = true;
  const auto expected = run(scene, in_strides)[1].second;
  for (size_t l = 0; l < 2; ++l) scene.outputs[l].reg = scene.outputs[l].reg * scene.levels[l].stride;
  testing::expect_near(run(scene, config)[1].second, expected, 1e-4);  // the IoU has no unit
}

TEST(FcosLosses, ClassNormalisers) {
  const Scene scene;
  ModelConfig config;
  config.num_classes = kClasses;
  const auto sum = run(scene, config)[0].second * 3;
  config.loss.cls_normalizer = "all";
  testing::expect_near(run(scene, config)[0].second * 13, sum, 1e-5);
  config.loss.cls_normalizer = "moving";
  const auto moving = at::full({}, 100.0);
  testing::expect_near(run(scene, config, moving)[0].second * (0.9 * 100 + 0.1 * 3), sum, 1e-5);
  EXPECT_NEAR(moving.item<float>(), 90.3, 1e-4);
  run(scene, config, moving, /*begins_step=*/false);
  EXPECT_NEAR(moving.item<float>(), 90.3, 1e-4);  // once a step, however many micro-batches it has
}

}  // namespace
}  // namespace instseg
