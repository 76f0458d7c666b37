// SPDX-License-Identifier: Apache-2.0
#include "models/proposals.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <set>
#include <utility>
#include <vector>

#include "networks.h"

namespace instseg {
namespace {

using Index = std::vector<int64_t>;

/** One positive location: its cell and the object it belongs to, counted through the batch. */
struct Positive {
  int64_t level, image, position, object;
};

/** A step of two images and two levels (2 x 3 and 1 x 2 cells) with the given positives, level by level. */
class Scene {
 public:
  explicit Scene(const std::vector<Positive>& positives) {
    targets_.resize(2);
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{2, 3}, {1, 2}}) {
      forward_.outputs.push_back({at::full({2, 3, height, width}, -4.0),
                                  at::zeros({2, 4, height, width}),
                                  at::zeros({2, 1, height, width}),
                                  {}});
    }
    Index levels, images, positions, objects;
    for (const auto& p : positives) {
      levels.push_back(p.level);
      images.push_back(p.image);
      positions.push_back(p.position);
      objects.push_back(p.object);
    }
    cells_ = {at::tensor(levels, at::kLong), at::tensor(images, at::kLong), at::tensor(positions, at::kLong)};
    gt_index_ = at::tensor(objects, at::kLong);
  }

  /** Sets the logits of a cell: of one class, and its centerness. */
  void score(const Positive& at, int64_t label, double logit, double centerness) {
    const auto& output = forward_.outputs[static_cast<size_t>(at.level)];
    output.logits[at.image][label].view({-1})[at.position] = logit;
    output.centerness[at.image][0].view({-1})[at.position] = centerness;
  }

  Index choose(const CondInstConfig& config) const {
    const TrainStep step{.batch = batch_,
                         .targets = targets_,
                         .forward = forward_,
                         .positives = cells_,
                         .gt_index = gt_index_,
                         .reg = at::zeros({gt_index_.size(0), 4}),
                         .rasterized = rasterized_};
    const auto chosen = choose_proposals(step, config);
    EXPECT_EQ(chosen.scalar_type(), at::kLong);
    const auto* data = chosen.const_data_ptr<int64_t>();
    return {data, data + chosen.numel()};
  }

 private:
  ImageBatch batch_;
  std::vector<Targets> targets_;
  FcosForward forward_;
  Cells cells_;
  at::Tensor gt_index_;
  std::vector<RasterizedMasks> rasterized_;
};

/** All sixteen cells; objects 0 and 1 are in image 0, object 2 in image 1. */
std::vector<Positive> everywhere() {
  std::vector<Positive> all;
  for (int64_t image = 0; image < 2; ++image) {
    for (int64_t k = 0; k < 6; ++k) all.push_back({0, image, k, image == 0 ? k % 2 : 2});
  }
  for (int64_t image = 0; image < 2; ++image) {
    for (int64_t k = 0; k < 2; ++k) all.push_back({1, image, k, image == 0 ? 0 : 2});
  }
  return all;
}

Index all_of(int64_t count) {
  Index index;
  for (int64_t i = 0; i < count; ++i) index.push_back(i);
  return index;
}

TEST(ChooseProposals, KeepsAllBelowTheLimits) {
  const Scene scene(everywhere());
  EXPECT_EQ(scene.choose({.max_proposals = 16}), all_of(16));
  EXPECT_EQ(scene.choose({.max_proposals = 0}), all_of(16));
  EXPECT_EQ(scene.choose({.max_proposals = 0, .max_proposals_per_image = 8}).size(), 16u);
}

TEST(ChooseProposals, ARandomSubsetOfTheBatch) {
  const Scene scene(everywhere());
  std::set<Index> subsets;
  Index counts(16);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    at::manual_seed(seed);
    const auto chosen = scene.choose({.max_proposals = 5});
    const std::set<int64_t> unique(chosen.begin(), chosen.end());
    ASSERT_EQ(chosen.size(), 5u);
    ASSERT_EQ(unique.size(), 5u);
    ASSERT_TRUE(*unique.begin() >= 0 && *unique.rbegin() < 16);
    for (const auto i : unique) ++counts[static_cast<size_t>(i)];
    subsets.insert({unique.begin(), unique.end()});
    at::manual_seed(seed);
    EXPECT_EQ(scene.choose({.max_proposals = 5}), chosen);
  }
  EXPECT_GT(subsets.size(), 150u);
  // 200 draws of 5 out of 16: each positive 62.5 times on average, with a deviation of 6.6.
  for (const auto count : counts) EXPECT_TRUE(count > 30 && count < 95) << count;
}

TEST(ChooseProposals, ARandomSubsetOfEachImage) {
  const auto positives = everywhere();
  const Scene scene(positives);
  const auto of_image = [&](const Index& chosen, int64_t image) {
    std::set<int64_t> found;
    for (const auto i : chosen) {
      if (positives[static_cast<size_t>(i)].image == image) found.insert(i);
    }
    return found;
  };
  at::manual_seed(1);
  const auto chosen = scene.choose({.max_proposals = 0, .max_proposals_per_image = 3});
  EXPECT_EQ(chosen.size(), 6u);
  EXPECT_EQ(of_image(chosen, 0).size(), 3u);
  EXPECT_EQ(of_image(chosen, 1).size(), 3u);
  at::manual_seed(2);
  const auto other = scene.choose({.max_proposals = 0, .max_proposals_per_image = 3});
  EXPECT_NE(of_image(other, 0), of_image(chosen, 0));
  const auto both = scene.choose({.max_proposals = 4, .max_proposals_per_image = 3});
  EXPECT_EQ(both.size(), 4u);
  EXPECT_LE(of_image(both, 0).size(), 3u);
  EXPECT_LE(of_image(both, 1).size(), 3u);
}

TEST(ChooseProposals, TheBestScoredOfEachObject) {
  const auto positives = everywhere();
  Scene scene(positives);
  // Object 0: 0, 2, 4, 12, 13; object 1: 1, 3, 5; object 2: 6..11, 14, 15.
  scene.score(positives[2], 1, 2.0, 0.0);    // 0.44
  scene.score(positives[4], 0, 1.0, 5.0);    // 0.73
  scene.score(positives[12], 2, 6.0, -3.0);  // 0.05
  scene.score(positives[13], 2, 3.0, 3.0);   // 0.91
  scene.score(positives[3], 0, 0.0, 0.0);    // 0.25
  scene.score(positives[5], 1, -1.0, 4.0);   // 0.26
  scene.score(positives[15], 1, 4.0, 4.0);   // 0.96
  scene.score(positives[9], 2, 4.0, 1.0);    // 0.72
  scene.score(positives[7], 0, 0.5, 1.0);    // 0.46
  scene.score(positives[7], 1, -9.0, 1.0);   // not the largest probability
  scene.score(positives[10], 0, -0.5, 1.0);  // 0.28
  const auto choose = [&](int64_t count) {
    return scene.choose({.max_proposals = 0, .topk_per_image = count});
  };
  // Image 0 has two objects, image 1 one.
  EXPECT_EQ(choose(4), Index({13, 4, 5, 3, 15, 9, 7, 10}));
  EXPECT_EQ(choose(5), Index({13, 4, 5, 3, 15, 9, 7, 10, 6}));  // of equal scores the first
  EXPECT_EQ(choose(1), Index({13, 5, 15}));
  EXPECT_EQ(choose(6), Index({13, 4, 2, 5, 3, 1, 15, 9, 7, 10, 6, 8}));
  EXPECT_EQ(choose(64).size(), 16u);
}

TEST(ChooseProposals, ObjectsWithoutPositivesTakeNoShare) {
  Scene scene({{0, 0, 0, 3}, {0, 0, 1, 3}, {0, 0, 2, 3}});
  EXPECT_EQ(scene.choose({.max_proposals = 0, .topk_per_image = 2}), Index({0, 1}));
}

TEST(ChooseProposals, NoPositives) {
  const Scene scene({});
  EXPECT_TRUE(scene.choose({}).empty());
  EXPECT_TRUE(scene.choose({.max_proposals_per_image = 2}).empty());
  EXPECT_TRUE(scene.choose({.max_proposals = 0, .topk_per_image = 64}).empty());
}

}  // namespace
}  // namespace instseg
