// SPDX-License-Identifier: Apache-2.0
#include "losses/boxinst_losses.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <cmath>
#include <utility>

#include "losses/mask_losses.h"
#include "networks.h"

namespace instseg {
namespace {

constexpr int64_t kStride = 4, kHeight = 32, kWidth = 40;

using Color = std::array<double, 3>;
using Offsets = std::vector<std::pair<int64_t, int64_t>>;

Offsets neighbors(const BoxInstConfig& config) {
  Offsets offsets;
  const int64_t d = config.pairwise_dilation, reach = config.pairwise_size / 2 * d;
  for (int64_t dy = -reach; dy <= reach; dy += d) {
    for (int64_t dx = -reach; dx <= reach; dx += d) {
      if (dy != 0 || dx != 0) offsets.emplace_back(dy, dx);
    }
  }
  return offsets;
}

/** Grey levels in RGB of images inside a canvas of 32 x 40, and what became of them before. */
struct Scene {
  std::vector<at::Tensor> images;  // [3, h, w] uint8
  std::vector<ImageSize> original_sizes;

  ImageBatch batch(const InputConfig& input) const {
    ImageBatch result{
        at::zeros({static_cast<int64_t>(images.size()), 3, kHeight, kWidth}), {}, original_sizes};
    for (size_t i = 0; i < images.size(); ++i) {
      auto pixels = images[i].to(at::kFloat);
      if (input.channel_order == "bgr") pixels = pixels.flip(0);
      const auto mean = at::tensor(input.mean, at::kFloat).view({3, 1, 1});
      const auto std = at::tensor(input.std, at::kFloat).view({3, 1, 1});
      const ImageSize size{pixels.size(1), pixels.size(2)};
      result.pixels[static_cast<int64_t>(i)]
          .narrow(1, 0, size.height)
          .narrow(2, 0, size.width)
          .copy_((pixels - mean) / std);
      result.sizes.push_back(size);
    }
    return result;
  }
};

/** A full image, a smaller one, a dark one whose rows are nearly all left out, and one without any. */
Scene make_scene() {
  at::manual_seed(1);
  const auto noise = [](int64_t low, int64_t high, int64_t height, int64_t width) {
    return at::randint(low, high, {3, height, width}, at::kLong).to(at::kByte);
  };
  return {{noise(120, 160, kHeight, kWidth), noise(60, 90, 22, 30), noise(0, 16, 29, 40),
           noise(200, 230, 30, 33)},
          {{64, 80}, {44, 60}, {15, 20}, {9, 10}}};
}

Color lab(const Color& rgb) {
  Color linear{};
  for (size_t c = 0; c < 3; ++c) {
    const double v = rgb[c] / 255;
    linear[c] = v > 0.04045 ? std::pow((v + 0.055) / 1.055, 2.4) : v / 12.92;
  }
  const auto [r, g, b] = linear;
  const auto f = [](double t) { return t > 0.008856 ? std::cbrt(t) : 7.787 * t + 16.0 / 116; };
  const double x = f((0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.95047);
  const double y = f(0.212671 * r + 0.715160 * g + 0.072169 * b);
  const double z = f((0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883);
  return {116 * y - 16, 500 * (x - y), 200 * (y - z)};
}

/** Lab of the truncated mean color of a mask pixel, 0 where the image ends. */
Color color_at(const at::Tensor& image, int64_t y, int64_t x) {
  const auto levels = image.contiguous();
  Color mean{};
  for (int64_t c = 0; c < 3; ++c) {
    double sum = 0;
    for (int64_t v = y * kStride; v < std::min((y + 1) * kStride, image.size(1)); ++v) {
      for (int64_t u = x * kStride; u < std::min((x + 1) * kStride, image.size(2)); ++u) {
        sum += levels.const_data_ptr<uint8_t>()[(c * image.size(1) + v) * image.size(2) + u];
      }
    }
    mean[c] = std::floor(sum / (kStride * kStride));
  }
  return lab(mean);
}

at::Tensor naive_similarity(const Scene& scene, const BoxInstConfig& config) {
  const int64_t h = kHeight / kStride, w = kWidth / kStride;
  const auto offsets = neighbors(config);
  const auto images = static_cast<int64_t>(scene.images.size());
  auto result = at::zeros({images, static_cast<int64_t>(offsets.size()), h, w});
  for (int64_t i = 0; i < images; ++i) {
    const auto& image = scene.images[i];
    const double removed = static_cast<double>(config.bottom_pixels_removed * image.size(1)) /
                           static_cast<double>(scene.original_sizes[i].height);
    for (size_t k = 0; k < offsets.size(); ++k) {
      for (int64_t y = 0; y < h; ++y) {
        for (int64_t x = 0; x < w; ++x) {
          const int64_t v = y + offsets[k].first, u = x + offsets[k].second;
          if (v < 0 || u < 0) continue;
          const int64_t row = v * kStride + 2, column = u * kStride + 2;
          if (row >= image.size(1) - static_cast<int64_t>(removed) || column >= image.size(2)) continue;
          const auto a = color_at(image, y, x), b = color_at(image, v, u);
          const double distance = std::hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
          result[i][static_cast<int64_t>(k)][y][x] = std::exp(-0.5 * distance);
        }
      }
    }
  }
  return result;
}

void expect_similarity(const InputConfig& input, const BoxInstConfig& config) {
  const auto scene = make_scene();
  const auto found = color_similarity(scene.batch(input), input, config, kStride);
  const auto expected = naive_similarity(scene, config);
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_EQ(found.scalar_type(), at::kFloat);
  EXPECT_LT((found - expected).abs().max().item<float>(), 1e-4);
  EXPECT_TRUE(found.eq(0).equal(expected.eq(0)));
  // The scene decides something: similar and different colors, in image and valid rows or not.
  EXPECT_GT(expected.ge(0.3).sum().item<int64_t>(), 50);
  EXPECT_GT((expected.lt(0.3) & expected.gt(0)).sum().item<int64_t>(), 50);
  EXPECT_EQ(expected[3].ne(0).sum().item<int64_t>(), 0);
}

TEST(ColorSimilarity, OfBgrEqualsTheFormula) { expect_similarity({}, {}); }

TEST(ColorSimilarity, OfNormalisedRgbEqualsTheFormula) {
  expect_similarity(
      {.channel_order = "rgb", .mean = {123.675, 116.28, 103.53}, .std = {58.395, 57.12, 57.375}}, {});
}

TEST(ColorSimilarity, OfNormalisedBgrWithAnotherPattern) {
  expect_similarity({.channel_order = "bgr", .mean = {10, 120, 200}, .std = {57.3, 20.0, 3.0}},
                    {.pairwise_size = 5, .pairwise_dilation = 1, .bottom_pixels_removed = 14});
}

TEST(ColorSimilarity, EveryRowCountsWhenNoneIsRemoved) {
  auto scene = make_scene();
  const auto found = color_similarity(scene.batch({}), {}, {.bottom_pixels_removed = 0}, kStride);
  EXPECT_LT((found - naive_similarity(scene, {.bottom_pixels_removed = 0})).abs().max().item<float>(), 1e-4);
  EXPECT_GT(found[3].ne(0).sum().item<int64_t>(), 0);
}

TEST(ProjectionLoss, IsTheDiceOfBothProjections) {
  at::manual_seed(2);
  const auto logits = at::randn({2, 5, 7}), m = logits.sigmoid();
  auto boxes = at::zeros({2, 5, 7});
  boxes[0].narrow(0, 1, 3).narrow(1, 2, 4).fill_(1);
  const auto losses = projection_loss(logits, boxes, 1e-5);
  ASSERT_EQ(losses.sizes(), at::IntArrayRef({2}));
  for (int64_t i = 0; i < 2; ++i) {
    double expected = 0;
    for (const int64_t axis : {0, 1}) {
      const int64_t length = m.size(axis == 0 ? 2 : 1), across = m.size(axis == 0 ? 1 : 2);
      double overlap = 0, squares = 0;
      for (int64_t k = 0; k < length; ++k) {
        double p = 0, g = 0;
        for (int64_t j = 0; j < across; ++j) {
          const int64_t y = axis == 0 ? j : k, x = axis == 0 ? k : j;
          p = std::max(p, m[i][y][x].item<double>());
          g = std::max(g, boxes[i][y][x].item<double>());
        }
        overlap += p * g;
        squares += p * p + g * g;
      }
      expected += 1 - 2 * overlap / (squares + 1e-5);
    }
    EXPECT_NEAR(losses[i].item<double>(), expected, 1e-6);
  }
  EXPECT_NEAR(projection_loss(200 * boxes - 100, boxes, 1e-5)[0].item<double>(), 0, 1e-5);
}

/** Logits, similarities and boxes of two masks of 5 x 6, in double. */
struct Pairs {
  at::Tensor logits, similarity, boxes;

  explicit Pairs(const BoxInstConfig& config) {
    at::manual_seed(3);
    logits = at::randn({2, 5, 6}, at::kDouble) * 2;
    similarity = at::rand({2, static_cast<int64_t>(neighbors(config).size()), 5, 6}, at::kDouble);
    boxes = at::zeros({2, 5, 6}, at::kDouble);
    boxes[0].narrow(0, 0, 3).narrow(1, 1, 4).fill_(1);
    boxes[1].narrow(0, 2, 3).narrow(1, 3, 3).fill_(1);
  }

  double naive(const BoxInstConfig& config) const {
    const auto sigmoid = [&](int64_t i, int64_t y, int64_t x) {
      return 1 / (1 + std::exp(-logits[i][y][x].item<double>()));
    };
    const auto offsets = neighbors(config);
    double sum = 0, weights = 0;
    for (int64_t i = 0; i < 2; ++i) {
      for (size_t k = 0; k < offsets.size(); ++k) {
        for (int64_t y = 0; y < 5; ++y) {
          for (int64_t x = 0; x < 6; ++x) {
            if (boxes[i][y][x].item<double>() == 0) continue;
            const double s = similarity[i][static_cast<int64_t>(k)][y][x].item<double>();
            if (s < config.color_threshold) continue;
            weights += 1;
            const int64_t v = y + offsets[k].first, u = x + offsets[k].second;
            if (v < 0 || v >= 5 || u < 0 || u >= 6) continue;  // nothing to agree with
            const double p = sigmoid(i, y, x), q = sigmoid(i, v, u);
            sum -= std::log(p * q + (1 - p) * (1 - q));
          }
        }
      }
    }
    return sum / std::max(weights, 1.0);
  }
};

TEST(PairwiseLoss, EqualsTheLoop) {
  for (const BoxInstConfig& config :
       {BoxInstConfig{}, BoxInstConfig{.pairwise_size = 5, .pairwise_dilation = 1, .color_threshold = 0.8}}) {
    const Pairs pairs(config);
    const auto loss = pairwise_loss(pairs.logits, pairs.similarity, pairs.boxes, config);
    EXPECT_NEAR(loss.item<double>(), pairs.naive(config), 1e-12);
    EXPECT_GT(loss.item<double>(), 0.1);
  }
}

TEST(PairwiseLoss, GradientEqualsFiniteDifferences) {
  const BoxInstConfig config;
  Pairs pairs(config);
  const auto leaf = pairs.logits.clone().requires_grad_();
  pairwise_loss(leaf, pairs.similarity, pairs.boxes, config).backward();
  const auto flat = pairs.logits.view({-1}), gradient = leaf.grad().view({-1});
  for (int64_t i = 0; i < flat.size(0); ++i) {
    const double value = flat[i].item<double>(), step = 1e-5;
    flat[i] = value + step;
    const double above = pairs.naive(config);
    flat[i] = value - step;
    const double below = pairs.naive(config);
    flat[i] = value;
    EXPECT_NEAR(gradient[i].item<double>(), (above - below) / (2 * step), 1e-8) << i;
  }
  EXPECT_GT(gradient.abs().max().item<double>(), 1e-3);
}

TEST(PairwiseLoss, IsFiniteForCertainPixels) {
  const auto logits = at::tensor({200.f, -200.f, 200.f, -200.f}).view({1, 2, 2}).requires_grad_();
  const auto ones = at::zeros({1, 8, 2, 2}) + 1;
  const auto loss = pairwise_loss(logits, ones, ones.select(1, 0), {.pairwise_dilation = 1});
  loss.backward();
  EXPECT_GT(loss.item<float>(), 10.f);
  EXPECT_TRUE(logits.grad().isfinite().all().item<bool>());
}

TEST(PairwiseLoss, OfNoPairsIsAZeroWithGradient) {
  const BoxInstConfig config;
  const Pairs pairs(config);
  const auto leaf = pairs.logits.clone().requires_grad_();
  const auto zero = pairwise_loss(leaf, pairs.similarity * 0, pairs.boxes, config);
  EXPECT_EQ(zero.item<double>(), 0);
  zero.backward();
  EXPECT_EQ(leaf.grad().abs().max().item<double>(), 0);
  const auto none = at::empty({0, 5, 6}).requires_grad_();
  const auto empty = pairwise_loss(none, at::empty({0, 8, 5, 6}), at::empty({0, 5, 6}), config);
  EXPECT_EQ(empty.item<float>(), 0.f);
  empty.backward();
  EXPECT_TRUE(none.grad().defined());
}

}  // namespace
}  // namespace instseg
