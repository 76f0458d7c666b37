// SPDX-License-Identifier: Apache-2.0
#include "instseg/predictor.h"

#include <ATen/ops/randint.h>

#include <filesystem>

#include "instseg/error.h"
#include "instseg/model.h"
#include "instseg/model_file.h"
#include "networks.h"

namespace instseg {
namespace {

std::shared_ptr<Model> model_with_detections() {
  at::manual_seed(1);
  auto config = testing::tiny_config();
  config.post.score_threshold = 0.02;
  const auto model = make_model(config);
  const c10::AutoGradMode no_grad(false);
  for (auto& item : model->named_parameters()) {
    if (item.key() == "head.cls_logits.weight") item.value().normal_(0, 0.2);
    if (item.key() == "head.box_pred.bias") item.value().fill_(1.5);
  }
  testing::randomize(*model);
  return model;
}

at::Tensor image(int64_t height, int64_t width) { return at::randint(256, {height, width, 3}, at::kByte); }

void expect_same(const Instances& a, const Instances& b) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_TRUE(a.labels.equal(b.labels));
  testing::expect_near(a.boxes, b.boxes, 1e-4);
  testing::expect_near(a.scores, b.scores, 1e-4);
}

TEST(Predictor, EqualsTheModelItWasMadeFrom) {
  const auto model = model_with_detections();
  Predictor predictor(*model);
  model->eval();
  const auto photo = image(100, 140);
  const auto expected = model->detect(preprocess({photo}, model->config().input)).front();
  ASSERT_GT(expected.size(), 0);
  expect_same(predictor(photo), expected);
  expect_same(predictor(photo), expected);
}

TEST(Predictor, DetectsOnAPreparedBatch) {
  const auto model = model_with_detections();
  Predictor predictor(*model);
  const auto photo = image(100, 140);
  const auto expected = predictor(photo);
  ASSERT_GT(expected.size(), 0);
  auto batch = preprocess({photo}, predictor.config().input);
  expect_same(predictor.detect(batch).front(), expected);
  EXPECT_GT(predictor.last_times().network, 0);
  batch.original_sizes = {{200, 280}};
  const auto doubled = predictor.detect(batch).front();
  EXPECT_EQ(doubled.image_size.height, 200);
  testing::expect_near(doubled.boxes, expected.boxes * 2, 1e-3);
  batch.sizes.clear();
  EXPECT_THROW(predictor.detect(batch), ValueError);
}

TEST(Predictor, LeavesTheModelTrainable) {
  const auto model = model_with_detections();
  const auto before = model->parameters().front().clone();
  {
    Predictor predictor(*model);
    predictor(image(64, 64));
  }
  EXPECT_TRUE(model->parameters().front().equal(before));
  EXPECT_TRUE(model->is_training());
}

TEST(Predictor, ReadsTheFileThatWasSaved) {
  const auto model = model_with_detections();
  const auto path = (std::filesystem::temp_directory_path() / "instseg_predictor_test.safetensors").string();
  save_model(path, *model);
  Predictor from_file(path), from_model(*model);
  std::filesystem::remove(path);
  const auto photo = image(80, 64);
  expect_same(from_file(photo), from_model(photo));
}

TEST(Predictor, BatchesImagesOfDifferentSizes) {
  const auto model = model_with_detections();
  Predictor predictor(*model);
  const auto results = predictor(std::vector<at::Tensor>{image(64, 96), image(90, 50)});
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[1].image_size, (ImageSize{90, 50}));
  EXPECT_TRUE(predictor(std::vector<at::Tensor>{}).empty());
}

TEST(Predictor, OptionsLimitTheDetections) {
  const auto model = model_with_detections();
  const auto photo = image(64, 96);
  Predictor few(*model, {.max_detections = 3});
  EXPECT_LE(few(photo).size(), 3);
  const double threshold = few(photo).scores[1].item<double>();
  Predictor strict(*model, {.score_threshold = threshold});
  EXPECT_GE(strict(photo).scores.min().item<double>(), threshold);
  Predictor larger(*model, {.short_side = 128, .long_side = 192});
  EXPECT_EQ(larger.config().input.short_side, 128);
}

TEST(Predictor, RefusesOptionsItCannotHonour) {
  const auto model = model_with_detections();
  EXPECT_THROW(Predictor(*model, {.device = "tpu"}), ValueError);
  EXPECT_THROW(Predictor(*model, {.precision = "int8"}), ValueError);
  EXPECT_THROW(Predictor(*model, {.precision = "fp16"}), ValueError);
  EXPECT_THROW(Predictor(*model, {.score_threshold = 2}), ValueError);
  EXPECT_THROW(Predictor("/nonexistent/model.safetensors"), IoError);
}

TEST(Predictor, Bfloat16IsClose) {
  const auto model = model_with_detections();
  const auto photo = image(64, 96);
  const auto expected = Predictor(*model)(photo);
  const auto rounded = Predictor(*model, {.precision = "bf16"})(photo);
  ASSERT_GT(rounded.size(), 0);
  EXPECT_NEAR(rounded.scores[0].item<float>(), expected.scores[0].item<float>(), 0.03);
}

}  // namespace
}  // namespace instseg
