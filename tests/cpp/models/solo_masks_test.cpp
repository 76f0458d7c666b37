// SPDX-License-Identifier: Apache-2.0
#include "models/solo_masks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <set>
#include <string>

#include "instseg/ops/binary_masks.h"
#include "networks.h"

namespace instseg {
namespace {

const std::vector<int64_t> kStrides = {8, 8, 16, 32, 32};
constexpr double kThreshold = 0.3;

/** A head of five levels over maps of two images of 128 x 192, and a config that suppresses nothing. */
struct Scene {
  ModelConfig config;
  std::shared_ptr<SoloHead> head;
  SoloForward network;

  explicit Scene(const std::string& kind) {
    at::manual_seed(1);
    config.num_classes = 12;
    config.post.score_threshold = kThreshold;
    config.post.nms_threshold = 1;
    config.post.max_detections = 40;
    config.solo = {
        .head = kind, .grids = {15, 14, 12, 9, 6}, .convs = 1, .channels = 32, .mask_channels = 32};
    config.solo.max_candidates = 100'000;
    config.solo.nms = "mask";
    config.solo.update_threshold = 0;
    head = make_solo_head(config.solo, 8, config.num_classes, 0.01);
    const c10::AutoGradMode no_grad(false);
    for (auto& parameter : head->parameters()) parameter.normal_(0.02, parameter.dim() == 1 ? 0.5 : 0.2);
    for (int64_t stride = 4; stride <= 64; stride *= 2)
      network.features.push_back(at::randn({2, 8, 128 / stride, 192 / stride}));
    network.mask_features = at::randn({2, 32, 32, 48});
    network.mask_size = {32, 48};
    head->classify(network);
    for (size_t level = 0; level < 5; ++level) head->prepare(network, level);
  }

  SoloCandidates candidates(int64_t image = 1) const {
    return solo_candidates(network.logits, image, config.post.score_threshold);
  }
  SoloDetections detect(const SoloCandidates& found, int64_t image = 1) const {
    return solo_masks(*head, network, image, found, config);
  }
  /** Of all levels but `level`, nothing. */
  static SoloCandidates only(const SoloCandidates& all, size_t level) {
    SoloCandidates one = all;
    for (size_t l = 0; l < one.levels.size(); ++l) {
      auto& found = one.levels[l];
      if (l == level) continue;
      for (auto* part : {&found.cells, &found.labels, &found.scores}) *part = part->narrow(0, 0, 0);
    }
    return one;
  }
};

int64_t cells_of(const SoloCandidates& found) {
  int64_t count = 0;
  for (const auto& level : found.levels) {
    const auto* cells = level.cells.const_data_ptr<int64_t>();
    count += static_cast<int64_t>(std::set<int64_t>(cells, cells + level.cells.numel()).size());
  }
  return count;
}

/** Sorted by descending score, stable. */
SoloDetections sorted(const SoloDetections& found) {
  const auto order = at::argsort(found.scores, true, 0, true);
  return {found.probabilities.index_select(0, order), found.scores.index_select(0, order),
          found.labels.index_select(0, order)};
}

/** All candidates of an image, rescored by maskness: mask by mask, in plain tensor operations. */
SoloDetections rescored(const Scene& scene, const SoloCandidates& found, int64_t image) {
  std::vector<at::Tensor> probabilities, scores, labels;
  for (size_t l = 0; l < found.levels.size(); ++l) {
    const auto& level = found.levels[l];
    for (int64_t i = 0; i < level.cells.size(0); ++i) {
      const auto cell = level.cells.narrow(0, i, 1);
      const auto p = scene.head->masks(scene.network, l, image, cell, {32, 48})(at::zeros({1}, at::kLong));
      const auto inside = p.gt(0.5);
      const auto area = inside.sum().item<int64_t>();
      if (area <= kStrides[l]) continue;
      probabilities.push_back(p);
      scores.push_back(level.scores.narrow(0, i, 1) * at::where(inside, p, 0).to(at::kDouble).sum() / area);
      labels.push_back(level.labels.narrow(0, i, 1));
    }
  }
  return sorted({at::cat(probabilities), at::cat(scores).to(at::kFloat), at::cat(labels)});
}

class EveryHead : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryHead, ScoresAreThoseOfClassAndMask) {
  const c10::AutoGradMode no_grad(false);
  const Scene scene(GetParam());
  for (const int64_t image : {0, 1}) {
    const auto candidates = Scene::only(scene.candidates(image), 3);
    ASSERT_GT(cells_of(candidates), 10);
    const auto expected = rescored(scene, candidates, image), found = scene.detect(candidates, image);
    const auto count = std::min<int64_t>(40, expected.scores.size(0));
    ASSERT_EQ(found.scores.size(0), count);
    testing::expect_near(found.scores, expected.scores.narrow(0, 0, count), 1e-5);
    EXPECT_TRUE(found.labels.equal(expected.labels.narrow(0, 0, count)));
    testing::expect_near(found.probabilities, expected.probabilities.narrow(0, 0, count), 1e-5);
  }
}

// Levels alone keep their masks, together they make them again.
TEST_P(EveryHead, MasksMadeAgainEqualKeptOnes) {
  const c10::AutoGradMode no_grad(false);
  const Scene scene(GetParam());
  const auto all = scene.candidates();
  ASSERT_GT(cells_of(all), 256);
  std::vector<at::Tensor> probabilities, scores, labels;
  for (size_t level = 0; level < 5; ++level) {
    const auto one = Scene::only(all, level);
    ASSERT_LE(cells_of(one), 256);
    const auto found = scene.detect(one);
    probabilities.push_back(found.probabilities);
    scores.push_back(found.scores);
    labels.push_back(found.labels);
  }
  const auto expected = sorted({at::cat(probabilities), at::cat(scores), at::cat(labels)});
  const auto found = scene.detect(all);
  ASSERT_EQ(found.scores.size(0), 40);
  EXPECT_TRUE(found.scores.equal(expected.scores.narrow(0, 0, 40)));
  EXPECT_TRUE(found.labels.equal(expected.labels.narrow(0, 0, 40)));
  testing::expect_near(found.probabilities, expected.probabilities.narrow(0, 0, 40), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(All, EveryHead, ::testing::Values("solo", "decoupled", "decoupled_light", "solov2"),
                         [](const auto& info) { return info.param; });

TEST(SoloMasks, LimitsAndThresholdsApplyInOrder) {
  const c10::AutoGradMode no_grad(false);
  Scene scene("solov2");
  const auto candidates = scene.candidates();
  scene.config.post.max_detections = 100'000;
  const auto all = scene.detect(candidates);
  ASSERT_GT(all.scores.size(0), 50);
  EXPECT_TRUE(all.scores.slice(0, 1).le(all.scores.slice(0, 0, -1)).all().item<bool>());

  scene.config.solo.max_candidates = 30;
  EXPECT_TRUE(scene.detect(candidates).scores.equal(all.scores.narrow(0, 0, 30)));
  scene.config.post.max_detections = 20;
  EXPECT_TRUE(scene.detect(candidates).scores.equal(all.scores.narrow(0, 0, 20)));
  scene.config.solo.update_threshold = all.scores[9].item<double>();  // one that equals it stays
  EXPECT_TRUE(scene.detect(candidates).scores.equal(all.scores.narrow(0, 0, 10)));
}

TEST(SoloMasks, MatrixNmsLowersScoresOnce) {
  const c10::AutoGradMode no_grad(false);
  Scene scene("solov2");
  scene.config.post.max_detections = 100'000;
  scene.config.solo.max_candidates = 60;
  const auto candidates = scene.candidates();
  const auto before = scene.detect(candidates);
  scene.config.solo.nms = "matrix";
  for (const std::string kernel : {"gaussian", "linear"}) {
    scene.config.solo.nms_kernel = kernel;
    const auto decayed =
        matrix_nms(pack_masks(before.probabilities, 0.5), before.scores, before.labels, kernel);
    EXPECT_FALSE(decayed.equal(before.scores));
    const auto expected = sorted({before.probabilities, decayed, before.labels});
    const auto found = scene.detect(candidates);
    EXPECT_TRUE(found.scores.equal(expected.scores)) << kernel;
    EXPECT_TRUE(found.labels.equal(expected.labels)) << kernel;
    EXPECT_TRUE(found.probabilities.equal(expected.probabilities)) << kernel;
  }
}

TEST(SoloMasks, GreedyNmsRemovesMasks) {
  const c10::AutoGradMode no_grad(false);
  Scene scene("solov2");
  scene.config.post.max_detections = 100'000;
  scene.config.solo.max_candidates = 60;
  const auto candidates = scene.candidates();
  const auto before = scene.detect(candidates);
  scene.config.post.nms_threshold = 0.2;
  const auto keep = mask_nms(pack_masks(before.probabilities, 0.5), before.scores, before.labels, 0.2);
  ASSERT_LT(keep.size(0), 60);
  EXPECT_TRUE(scene.detect(candidates).scores.equal(before.scores.index_select(0, keep)));
}

TEST(SoloMasks, Nothing) {
  const c10::AutoGradMode no_grad(false);
  Scene scene("solo");
  const auto expect_empty = [](const SoloDetections& found) {
    EXPECT_TRUE(found.probabilities.sizes().equals({0, 32, 48}));
    EXPECT_TRUE(found.scores.sizes().equals({0}) && found.labels.sizes().equals({0}));
    EXPECT_EQ(found.labels.scalar_type(), at::kLong);
  };
  const auto candidates = scene.candidates();
  expect_empty(scene.detect(Scene::only(candidates, 9)));
  scene.config.solo.update_threshold = 1;
  expect_empty(scene.detect(candidates));
  // Masks without a pixel inside: no candidate is left.
  for (auto& item : scene.head->named_parameters())
    if (item.key().starts_with("mask_output") && item.value().dim() == 1) item.value().fill_(-1000);
  scene.config.solo.update_threshold = 0;
  expect_empty(scene.detect(candidates));
}

}  // namespace
}  // namespace instseg
