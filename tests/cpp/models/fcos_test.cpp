// SPDX-License-Identifier: Apache-2.0
#include "models/fcos.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include "instseg/error.h"
#include "networks.h"

namespace instseg {
namespace {

ImageBatch batch_of(const ModelConfig& config, int64_t images) {
  std::vector<at::Tensor> pixels;
  for (int64_t i = 0; i < images; ++i) pixels.push_back(at::randint(256, {64 - 10 * i, 96, 3}, at::kByte));
  return make_batch(pixels, config.input);
}

Targets no_objects() { return {at::empty({0, 4}), at::empty({0}, at::kLong)}; }

Targets one_object() { return {at::tensor({10.f, 10.f, 60.f, 50.f}).view({1, 4}), at::tensor({int64_t{2}})}; }

at::Tensor total(const NamedTensors& losses) {
  at::Tensor sum;
  for (const auto& [name, value] : losses) sum = sum.defined() ? sum + value : value;
  return sum;
}

TEST(Fcos, LossesAreFiniteNamedScalars) {
  at::manual_seed(1);
  const auto config = testing::tiny_config();
  const auto model = make_model(config);
  const auto losses = model->losses(batch_of(config, 2), {one_object(), no_objects()});
  ASSERT_EQ(losses.size(), 3u);
  EXPECT_EQ(losses[0].first, "loss_cls");
  EXPECT_EQ(losses[1].first, "loss_box");
  EXPECT_EQ(losses[2].first, "loss_centerness");
  for (const auto& [name, value] : losses) {
    EXPECT_EQ(value.dim(), 0) << name;
    EXPECT_TRUE(std::isfinite(value.item<float>())) << name;
    EXPECT_GT(value.item<float>(), 0.f) << name;
  }
}

TEST(Fcos, EveryParameterTakesPartWithoutObjects) {
  at::manual_seed(2);
  const auto config = testing::tiny_config();
  const auto model = make_model(config);
  const auto losses = model->losses(batch_of(config, 1), {no_objects()});
  EXPECT_EQ(losses[1].second.item<float>(), 0.f);
  EXPECT_EQ(losses[2].second.item<float>(), 0.f);
  total(losses).backward();
  for (const auto& item : model->named_parameters()) EXPECT_TRUE(item.value().grad().defined()) << item.key();
}

TEST(Fcos, VariantsTrain) {
  std::vector<std::function<void(ModelConfig&)>> variants = {
      [](ModelConfig& c) { c.head.quality = "iou"; },
      [](ModelConfig& c) { c.loss.cls_normalizer = "moving"; },
      [](ModelConfig& c) { c.loss.cls_normalizer = "all"; },
      [](ModelConfig& c) { c.loss.box_loss = "iou"; },
      [](ModelConfig& c) { c.head.norm = "bn"; },
      [](ModelConfig& c) { c.backbone.norm = "bn_eval"; },
      [](ModelConfig& c) {
        c.head.box_transform = "exp", c.head.stride_units = false, c.head.centerness_on = "cls";
      },
      [](ModelConfig& c) { c.backbone.name = "efficientnet_lite0", c.backbone.norm = "bn"; },
      [](ModelConfig& c) { c.neck.max_level = 5, c.targets.sizes_of_interest = {64, 128}; },
  };
  for (size_t i = 0; i < variants.size(); ++i) {
    at::manual_seed(3);
    auto config = testing::tiny_config();
    variants[i](config);
    const auto model = make_model(config);
    const auto losses = model->losses(batch_of(config, 2), {one_object(), one_object()});
    total(losses).backward();
    for (const auto& item : model->named_parameters()) {
      ASSERT_TRUE(item.value().grad().defined()) << i << " " << item.key();
      EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << i << " " << item.key();
    }
  }
}

TEST(Fcos, ReduceMeanScalesTheNormalisers) {
  at::manual_seed(4);
  const auto config = testing::tiny_config();
  const auto model = make_model(config);
  const auto batch = batch_of(config, 1);
  const auto alone = model->losses(batch, {one_object()});
  model->set_reduce_mean([](const at::Tensor& value) { return value * 2; });
  const auto averaged = model->losses(batch, {one_object()});
  for (size_t i = 0; i < alone.size(); ++i) {
    EXPECT_NEAR(averaged[i].second.item<float>() * 2, alone[i].second.item<float>(), 1e-4) << alone[i].first;
  }
}

TEST(Fcos, MalformedTargetsAreRefused) {
  const auto config = testing::tiny_config();
  const auto model = make_model(config);
  const auto batch = batch_of(config, 1);
  EXPECT_THROW(model->losses(batch, {}), ValueError);
  EXPECT_THROW(model->losses(batch, {{at::empty({2, 4}), at::empty({1}, at::kLong)}}), ValueError);
  auto wrong_label = one_object();
  wrong_label.labels.fill_(3);
  EXPECT_THROW(model->losses(batch, {wrong_label}), ValueError);
}

TEST(Fcos, MalformedBatchesAreRefused) {
  const auto config = testing::tiny_config();
  const auto model = make_model(config);
  auto batch = batch_of(config, 2);
  batch.sizes.pop_back();
  EXPECT_THROW(model->detect(batch), ValueError);
  EXPECT_THROW(model->intermediates(batch), ValueError);
  EXPECT_THROW(model->losses(batch, {one_object()}), ValueError);
}

TEST(Fcos, DetectionsLieInTheOriginalImage) {
  at::manual_seed(5);
  auto config = testing::tiny_config();
  config.post.score_threshold = 0.001;
  config.post.max_detections = 7;
  const auto model = make_model(config);
  model->eval();
  auto batch = batch_of(config, 2);
  batch.original_sizes = {{128, 192}, {54, 96}};
  const auto results = model->detect(batch);
  ASSERT_EQ(results.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const auto& r = results[i];
    EXPECT_EQ(r.image_size, batch.original_sizes[i]);
    EXPECT_GT(r.size(), 0);
    EXPECT_LE(r.size(), 7);
    EXPECT_GE(r.boxes.min().item<float>(), 0.f);
    EXPECT_LE(r.boxes.select(1, 2).max().item<float>(), r.image_size.width);
    EXPECT_LE(r.boxes.select(1, 3).max().item<float>(), r.image_size.height);
    EXPECT_TRUE((r.scores.slice(0, 1) <= r.scores.slice(0, 0, -1)).all().item<bool>());
  }
}

TEST(Fcos, NothingAboveTheThresholdIsAnEmptyResult) {
  auto config = testing::tiny_config();
  config.post.score_threshold = 0.99;
  const auto model = make_model(config);
  model->eval();
  const auto result = model->detect(batch_of(config, 1)).front();
  EXPECT_EQ(result.size(), 0);
  EXPECT_EQ(result.boxes.sizes(), (std::vector<int64_t>{0, 4}));
}

TEST(Fcos, LoweredModelsCannotBeTrained) {
  const auto config = testing::tiny_config();
  const auto model = make_model(config);
  model->lower(at::kFloat);
  EXPECT_THROW(model->losses(batch_of(config, 1), {one_object()}), Error);
}

TEST(Fcos, SameSeedSameWeightsAndEmptyModelsDrawNothing) {
  const auto config = testing::tiny_config();
  at::manual_seed(6);
  const auto a = make_model(config);
  at::manual_seed(6);
  make_empty_model(config);
  const auto b = make_model(config);
  const auto pa = a->parameters(), pb = b->parameters();
  for (size_t i = 0; i < pa.size(); ++i) EXPECT_TRUE(pa[i].equal(pb[i]));
}

TEST(MakeModel, UnknownFamilyIsRefused) {
  auto config = testing::tiny_config();
  config.family = "yolo";
  EXPECT_THROW(make_model(config), ValueError);
}

}  // namespace
}  // namespace instseg
