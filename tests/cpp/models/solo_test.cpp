// SPDX-License-Identifier: Apache-2.0
#include "models/solo.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <set>
#include <string>

#include "instseg/error.h"
#include "networks.h"

namespace instseg {
namespace {

ModelConfig config_of(const std::string& head) {
  ModelConfig config = testing::tiny_config();
  config.family = "solo";
  config.neck.min_level = 2;
  config.neck.max_level = 6;
  config.neck.extra = "pool";
  config.solo = {.head = head,
                 .grids = {10, 8, 6, 4, 3},
                 .min_scales = {1, 16, 32, 64, 128},
                 .max_scales = {32, 64, 128, 256, 512},
                 .convs = 1,
                 .channels = 32,
                 .mask_channels = 32,
                 .branch_channels = 32};
  return config;
}

/** Two images of 64 x 96 and 54 x 96, padded to 64 x 96. */
ImageBatch batch_of(const ModelConfig& config, int64_t images = 2) {
  std::vector<at::Tensor> pixels;
  for (int64_t i = 0; i < images; ++i) pixels.push_back(at::randint(256, {64 - 10 * i, 96, 3}, at::kByte));
  return make_batch(pixels, config.input);
}

/** Objects whose masks are their boxes. */
Targets boxes_of(const std::vector<std::vector<double>>& boxes, const ImageSize& size) {
  Targets targets{at::empty({static_cast<int64_t>(boxes.size()), 4}), at::empty({0}, at::kLong),
                  MaskTargets(size)};
  targets.labels = at::randint(3, {static_cast<int64_t>(boxes.size())}, at::kLong);
  for (size_t i = 0; i < boxes.size(); ++i) {
    const auto& b = boxes[i];
    targets.boxes[static_cast<int64_t>(i)].copy_(at::tensor(b));
    targets.masks->add(Polygons{{b[0], b[1], b[2], b[1], b[2], b[3], b[0], b[3]}});
  }
  return targets;
}

Targets no_objects() { return {at::empty({0, 4}), at::empty({0}, at::kLong)}; }

std::vector<Targets> some_objects() {
  return {boxes_of({{10, 10, 30, 22}, {40, 8, 90, 60}}, {64, 96}), boxes_of({{5, 30, 60, 50}}, {54, 96})};
}

at::Tensor total(const NamedTensors& losses) { return losses[0].second + losses[1].second; }

void expect_trained(Model& model) {
  for (const auto& item : model.named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
  }
}

/** Weights with which many cells of all classes have masks. */
std::shared_ptr<Model> lively_model(const ModelConfig& config) {
  at::manual_seed(5);
  auto model = make_model(config);
  model->eval();
  const c10::AutoGradMode no_grad(false);
  for (auto& item : model->named_parameters()) {
    if (!item.key().starts_with("head.") && !item.key().starts_with("mask_branch.")) continue;
    item.value().normal_(0.05, item.value().dim() == 1 ? 0.5 : 0.2);
  }
  return model;
}

class SoloFamily : public ::testing::TestWithParam<std::string> {};

TEST_P(SoloFamily, LossesAreFiniteNamedScalars) {
  at::manual_seed(1);
  const auto config = config_of(GetParam());
  const auto model = make_model(config);
  const auto losses = model->losses(batch_of(config), some_objects());
  ASSERT_EQ(losses.size(), 2u);
  EXPECT_EQ(losses[0].first, "loss_cls");
  EXPECT_EQ(losses[1].first, "loss_mask");
  for (const auto& [name, value] : losses) {
    EXPECT_EQ(value.dim(), 0) << name;
    EXPECT_TRUE(std::isfinite(value.item<float>())) << name;
    EXPECT_GT(value.item<float>(), 0.f) << name;
  }
  EXPECT_LT(losses[1].second.item<float>(), 3.f);  // 3 * a dice loss
  total(losses).backward();
  expect_trained(*model);
}

TEST_P(SoloFamily, EveryParameterTakesPartWithoutObjects) {
  at::manual_seed(2);
  const auto config = config_of(GetParam());
  const auto model = make_model(config);
  const auto losses = model->losses(batch_of(config), {no_objects(), no_objects()});
  EXPECT_GT(losses[0].second.item<float>(), 0.f);
  EXPECT_EQ(losses[1].second.item<float>(), 0.f);
  total(losses).backward();
  expect_trained(*model);
}

TEST_P(SoloFamily, LevelsWithoutObjectsAreNotTrained) {
  at::manual_seed(3);
  auto config = config_of(GetParam());
  const auto model = make_model(config);
  // 40 x 40: levels 1 and 2.
  total(model->losses(batch_of(config, 1), {boxes_of({{10, 10, 50, 50}}, {64, 96})})).backward();
  expect_trained(*model);
  for (const auto& item : model->named_parameters()) {
    const auto place = item.key().find("_output.");
    if (place == std::string::npos) continue;
    const char level = item.key()[place + 8];
    EXPECT_EQ(item.value().grad().abs().max().item<float>() > 0, level == '1' || level == '2') << item.key();
  }
}

TEST_P(SoloFamily, BatchesAreImagesOneByOne) {
  at::manual_seed(4);
  auto config = config_of(GetParam());
  config.post.score_threshold = 0.3;
  const auto model = lively_model(config);
  const auto batch = batch_of(config);
  const auto both = model->detect(batch);
  ASSERT_EQ(both.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    ImageBatch one = batch;
    one.pixels = batch.pixels.narrow(0, static_cast<int64_t>(i), 1);
    one.sizes = {batch.sizes[i]};
    one.original_sizes = {batch.original_sizes[i]};
    const auto alone = model->detect(one).front();
    ASSERT_GT(alone.size(), 3) << i;
    ASSERT_EQ(both[i].size(), alone.size()) << i;
    testing::expect_near(both[i].scores, alone.scores, 1e-4);
    EXPECT_TRUE(both[i].labels.equal(alone.labels));
    testing::expect_near(both[i].masks.probabilities, alone.masks.probabilities, 1e-3);
  }
}

TEST_P(SoloFamily, DetectionsAreMasksOfTheOriginalImage) {
  at::manual_seed(5);
  auto config = config_of(GetParam());
  config.post.score_threshold = 0.2;
  config.post.max_detections = 7;
  const auto model = lively_model(config);
  auto batch = batch_of(config);
  batch.original_sizes = {{128, 192}, {27, 48}};
  const auto results = model->detect(batch);
  for (size_t i = 0; i < 2; ++i) {
    const auto& r = results[i];
    EXPECT_EQ(r.image_size, batch.original_sizes[i]);
    ASSERT_EQ(r.size(), 7);
    EXPECT_TRUE(r.scores.slice(0, 1).le(r.scores.slice(0, 0, -1)).all().item<bool>());
    EXPECT_GE(r.scores.min().item<double>(), 0.05);
    EXPECT_EQ(r.masks.enlarge, "half_pixel");
    const auto bitmaps = r.masks.bitmaps();
    EXPECT_TRUE(bitmaps.sizes().equals({7, r.image_size.height, r.image_size.width}));
    for (int64_t k = 0; k < 7; ++k) {
      const auto inside = bitmaps[k].nonzero();
      if (inside.size(0) == 0) continue;
      const auto low = std::get<0>(inside.min(0)), high = std::get<0>(inside.max(0)) + 1;
      const auto box = at::cat({low.flip(0), high.flip(0)}).to(at::kFloat);
      EXPECT_TRUE(r.boxes[k].equal(box)) << k;
    }
  }
}

TEST_P(SoloFamily, LoweredModelsDetectTheSameAndCannotBeTrained) {
  at::manual_seed(6);
  auto config = config_of(GetParam());
  config.post.score_threshold = 0.3;
  const auto model = lively_model(config);
  const auto batch = batch_of(config);
  const auto before = model->detect(batch);
  model->lower(at::kFloat);
  const auto after = model->detect(batch);
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_EQ(after[i].size(), before[i].size());
    testing::expect_near(after[i].scores, before[i].scores, 1e-3);
  }
  EXPECT_THROW(model->losses(batch, some_objects()), Error);
  EXPECT_THROW(model->lower(at::kFloat), Error);
}

TEST_P(SoloFamily, LoweredToBfloat16GivesFloatResults) {
  at::manual_seed(7);
  auto config = config_of(GetParam());
  config.post.score_threshold = 0.3;
  const auto model = lively_model(config);
  model->lower(at::kBFloat16);
  for (const auto& result : model->detect(batch_of(config))) {
    EXPECT_GT(result.size(), 0);
    EXPECT_EQ(result.scores.scalar_type(), at::kFloat);
    EXPECT_EQ(result.boxes.scalar_type(), at::kFloat);
    EXPECT_EQ(result.masks.probabilities.scalar_type(), at::kFloat);
  }
}

TEST_P(SoloFamily, NamesOfIntermediates) {
  const auto config = config_of(GetParam());
  const auto model = make_model(config);
  std::set<std::string> names,
      expected = {"input", "res2", "res3", "res4", "res5", "p2", "p3", "p4", "p5", "p6"};
  for (const auto& item : model->intermediates(batch_of(config))) names.insert(item.first);
  const std::string kind = GetParam();
  for (const std::string level : {"0", "1", "2", "3", "4"}) {
    expected.insert("cls." + level);
    if (kind == "solo") expected.insert("mask." + level);
    if (kind == "solov2") expected.insert("kernel." + level);
    if (kind.starts_with("decoupled")) expected.insert({"x." + level, "y." + level});
  }
  if (kind == "solov2") expected.insert("mask_features");
  EXPECT_EQ(names, expected);
}

INSTANTIATE_TEST_SUITE_P(All, SoloFamily, ::testing::Values("solo", "decoupled", "decoupled_light", "solov2"),
                         [](const auto& info) { return info.param; });

TEST(Solo, NothingAboveTheThresholdIsAnEmptyResult) {
  auto config = config_of("solov2");
  config.post.score_threshold = 0.99;
  const auto model = make_model(config);
  model->eval();
  const auto result = model->detect(batch_of(config, 1)).front();
  EXPECT_EQ(result.size(), 0);
  EXPECT_TRUE(result.boxes.sizes().equals({0, 4}));
  EXPECT_TRUE(result.labels.sizes().equals({0}));
  EXPECT_TRUE(result.masks.defined());
  EXPECT_TRUE(result.masks.bitmaps().sizes().equals({0, 64, 96}));
}

/** Whether a box is an object of the only level, of scales from `min_scale`. */
bool trains(bool inclusive, double min_scale, const std::vector<double>& box, const ImageSize& original) {
  at::manual_seed(8);
  auto config = config_of("solov2");
  config.solo.min_scales = {min_scale, 900, 900, 900, 900};
  config.solo.max_scales = {900, 901, 901, 901, 901};
  config.solo.inclusive_boxes = inclusive;
  auto batch = batch_of(config, 1);
  batch.original_sizes = {original};
  const auto losses = make_model(config)->losses(batch, {boxes_of({box}, {64, 96})});
  return losses[1].second.item<float>() > 0;
}

TEST(Solo, InclusiveBoxesEndAtTheLastPixelOfTheOriginalImage) {
  const std::vector<double> inner = {10, 10, 42, 42}, corner = {64, 0, 96, 32};
  const ImageSize same{64, 96}, twice{128, 192};
  EXPECT_TRUE(trains(false, 32, inner, same));
  EXPECT_FALSE(trains(false, 32.1, inner, same));
  EXPECT_TRUE(trains(true, 31, inner, same));  // 32 - 1 pixel
  EXPECT_FALSE(trains(true, 31.1, inner, same));
  EXPECT_TRUE(trains(true, 31.5, inner, twice));  // a pixel of the original is half of one here
  EXPECT_FALSE(trains(true, 31.6, inner, twice));
  EXPECT_TRUE(trains(true, 31.24, corner, twice));  // sqrt(31 * 31.5): cut to the last pixel of the network's
  EXPECT_FALSE(trains(true, 31.26, corner, twice));
}

TEST(Solo, MalformedTargetsAreRefused) {
  const auto config = config_of("solo");
  const auto model = make_model(config);
  const auto batch = batch_of(config, 1);
  EXPECT_THROW(model->losses(batch, {}), ValueError);
  EXPECT_THROW(model->losses(batch, {{at::empty({2, 4}), at::empty({1}, at::kLong)}}), ValueError);
  EXPECT_THROW(model->losses(batch, {{at::empty({0, 4}), {}}}), ValueError);
  auto targets = boxes_of({{10, 10, 50, 50}}, {64, 96});
  targets.labels.fill_(3);
  EXPECT_THROW(model->losses(batch, {targets}), ValueError);
  targets = boxes_of({{10, 10, 50, 50}}, {64, 96});
  targets.masks.reset();
  EXPECT_THROW(model->losses(batch, {targets}), ValueError);
  EXPECT_THROW(model->losses(batch, {boxes_of({{10, 10, 50, 50}}, {50, 96})}), ValueError);
}

TEST(Solo, TargetsOfOtherTypesAreConverted) {
  at::manual_seed(9);
  const auto config = config_of("solo");
  const auto model = make_model(config);
  const auto batch = batch_of(config, 1);
  auto targets = boxes_of({{10, 10, 50, 50}}, {64, 96});
  const auto expected = model->losses(batch, {targets});
  targets.boxes = targets.boxes.to(at::kDouble);
  targets.labels = targets.labels.to(at::kInt);
  const auto found = model->losses(batch, {targets});
  for (size_t i = 0; i < 2; ++i)
    EXPECT_NEAR(found[i].second.item<float>(), expected[i].second.item<float>(), 1e-5);
}

TEST(Solo, MalformedBatchesAreRefused) {
  const auto config = config_of("solo");
  const auto model = make_model(config);
  auto batch = batch_of(config);
  batch.sizes.pop_back();
  EXPECT_THROW(model->detect(batch), ValueError);
  EXPECT_THROW(model->intermediates(batch), ValueError);
  EXPECT_THROW(model->losses(batch, {no_objects()}), ValueError);
}

}  // namespace
}  // namespace instseg
