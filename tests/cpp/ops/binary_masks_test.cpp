// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/binary_masks.h"

#include <ATen/Parallel.h>

#include <limits>
#include <vector>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;
using test::same;

// Soft discs, many of them on top of each other.
at::Tensor random_maps(int64_t n, int64_t height, int64_t width) {
  const at::Tensor y = at::arange(height, at::kFloat).view({1, -1, 1});
  const at::Tensor x = at::arange(width, at::kFloat).view({1, 1, -1});
  const at::Tensor cy = at::rand({n, 1, 1}) * height, cx = at::rand({n, 1, 1}) * width;
  const at::Tensor radius = at::rand({n, 1, 1}) * (0.4 * std::min(height, width)) + 1;
  return ((radius - ((y - cy).square() + (x - cx).square()).sqrt()) / 2).sigmoid();
}

// Of float masks [N, h * w], in float64.
at::Tensor plain_iou(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor m = a.flatten(1).to(at::kDouble), k = b.flatten(1).to(at::kDouble);
  const at::Tensor common = m.mm(k.t());
  const at::Tensor united = m.sum(1).unsqueeze(1) + k.sum(1).unsqueeze(0) - common;
  return at::where(common > 0, common / united, 0.0);
}

at::Tensor plain_matrix_nms(const at::Tensor& masks, const at::Tensor& scores, const at::Tensor& labels,
                            bool gaussian, double sigma) {
  const at::Tensor alike = labels.unsqueeze(0) == labels.unsqueeze(1);
  const at::Tensor iou = (plain_iou(masks, masks) * alike).triu(1);
  const at::Tensor covered = iou.amax(0).unsqueeze(1);
  const at::Tensor ratio = gaussian ? (-sigma * iou.square()).exp() / (-sigma * covered.square()).exp()
                                    : ((1 - iou) / (1 - covered)).nan_to_num(0.0, {}, {});
  return scores.to(at::kDouble) * ratio.amin(0);
}

at::Tensor plain_mask_nms(const at::Tensor& masks, const at::Tensor& scores, const at::Tensor& labels,
                          double threshold) {
  const at::Tensor order = scores.argsort(/*stable=*/true, 0, /*descending=*/true);
  const at::Tensor iou = plain_iou(masks, masks).to(at::kFloat).to(at::kDouble);
  std::vector<int64_t> kept;
  for (int64_t rank = 0; rank < order.size(0); ++rank) {
    const int64_t i = order[rank].item<int64_t>();
    bool stays = true;
    for (const int64_t k : kept) {
      stays = stays && !(labels[i].equal(labels[k]) && iou[i][k].item<double>() > threshold);
    }
    if (stays) kept.push_back(i);
  }
  return at::tensor(kept, at::kLong);
}

at::Tensor descending(int64_t n) { return std::get<0>(at::rand({n}).sort(0, /*descending=*/true)); }

class BinaryMasksTest : public test::DeviceTest {};
INSTSEG_ON_DEVICES(BinaryMasksTest);

TEST_P(BinaryMasksTest, PacksPixelsAndSums) {
  for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {7, 9}, {8, 8}, {5, 13}, {16, 16}, {1, 257}, {50, 84}, {200, 336}}) {
    const at::Tensor maps = at::rand({5, height, width});
    const PackedMasks packed = pack_masks(here(maps), 0.25);
    const at::Tensor inside = maps > 0.25, flat = inside.flatten(1);
    const int64_t words = (height * width + 63) / 64;
    ASSERT_EQ(packed.bits.sizes(), at::IntArrayRef({5, words}));
    const at::Tensor shifts = at::arange(64, at::kLong);
    const at::Tensor bits = packed.bits.cpu().unsqueeze(2).__rshift__(shifts).bitwise_and(1).flatten(1);
    EXPECT_TRUE(same(bits.narrow(1, 0, height * width), flat.to(at::kLong))) << height << "x" << width;
    EXPECT_TRUE(bits.sum().equal(flat.sum()));  // spare bits are 0
    EXPECT_TRUE(same(packed.areas, flat.sum(1)));
    const at::Tensor mass = (maps.to(at::kDouble) * inside).sum({1, 2});
    const at::Tensor error = (packed.mass.cpu().to(at::kDouble) - mass).abs();
    EXPECT_TRUE((error <= 1e-6 * mass).all().item<bool>()) << height << "x" << width;
    EXPECT_EQ(packed.mass.scalar_type(), at::kFloat);
  }
}

TEST_P(BinaryMasksTest, ThresholdIsExclusiveAndNanIsOutside) {
  const float above = std::nextafter(0.5f, 1.0f);
  const at::Tensor maps = at::tensor({0.5f, above, NAN, 1.0f}).view({1, 2, 2});
  const PackedMasks packed = pack_masks(here(maps));
  EXPECT_EQ(packed.bits.item<int64_t>(), 0b1010);
  EXPECT_EQ(packed.areas.item<int64_t>(), 2);
  EXPECT_EQ(packed.mass.item<float>(), above + 1.0f);
  // 0.1f is above the double 0.1.
  EXPECT_EQ(pack_masks(here(at::full({1, 1, 3}, 0.1f)), 0.1).areas.item<int64_t>(), 3);
  EXPECT_EQ(pack_masks(here(at::full({1, 1, 3}, 0.1f)), static_cast<double>(0.1f)).areas.item<int64_t>(), 0);
  // Below all probabilities: everything is inside, the spare bits of a word are not.
  const PackedMasks all = pack_masks(here(at::zeros({1, 3, 7})), -1.0);
  EXPECT_EQ(all.areas.item<int64_t>(), 21);
  EXPECT_EQ(all.bits.item<int64_t>(), (int64_t{1} << 21) - 1);
}

TEST_P(BinaryMasksTest, AcceptsViews) {
  const at::Tensor maps = here(random_maps(12, 21, 35));
  const std::vector<at::Tensor> views{maps.slice(0, 0, 12, 3), maps.slice(1, 2, 19), maps.slice(2, 1, 30, 2),
                                      maps.transpose(1, 2), maps.narrow(0, 3, 1).expand({4, 21, 35})};
  for (const at::Tensor& view : views) {
    const PackedMasks expected = pack_masks(view.contiguous()), packed = pack_masks(view);
    EXPECT_TRUE(packed.bits.equal(expected.bits) && packed.areas.equal(expected.areas) &&
                packed.mass.equal(expected.mass));
  }
  PackedMasks wide = pack_masks(maps);
  const at::Tensor iou = mask_iou(wide, wide), scores = here(descending(12));
  const at::Tensor labels = here(at::randint(0, 2, {12, 3}, at::kLong));
  const at::Tensor decayed = matrix_nms(wide, scores, labels.select(1, 1).contiguous());
  wide.bits = wide.bits.t().contiguous().t();
  wide.areas = at::stack({wide.areas, wide.areas}, 1).select(1, 0);
  EXPECT_TRUE(mask_iou(wide, wide).equal(iou));
  EXPECT_TRUE(
      matrix_nms(wide, scores.unsqueeze(1).expand({12, 2}).contiguous().select(1, 1), labels.select(1, 1))
          .equal(decayed));
}

TEST_P(BinaryMasksTest, SelectsMasks) {
  const PackedMasks packed = pack_masks(here(random_maps(6, 9, 11)));
  const at::Tensor index = here(at::tensor({int64_t{4}, int64_t{0}, int64_t{4}}));
  const PackedMasks few = packed.select(index);
  EXPECT_EQ(few.size(), 3);
  EXPECT_TRUE(few.bits.equal(packed.bits.index_select(0, index)));
  EXPECT_TRUE(few.areas.equal(packed.areas.index_select(0, index)));
  EXPECT_TRUE(few.mass.equal(packed.mass.index_select(0, index)));
  EXPECT_EQ(PackedMasks{}.size(), 0);
}

TEST_P(BinaryMasksTest, IouMatchesMatrixProduct) {
  for (const auto& [n, m, side] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 1, 5}, {40, 70, 33}, {65, 3, 64}}) {
    const at::Tensor a = random_maps(n, side, side + 3), b = random_maps(m, side, side + 3);
    const at::Tensor iou = mask_iou(pack_masks(here(a)), pack_masks(here(b)));
    EXPECT_LE(difference(iou, plain_iou(a > 0.5, b > 0.5)), 1e-7);
  }
}

TEST_P(BinaryMasksTest, IouOfEmptyAndDisjointMasks) {
  at::Tensor maps = at::zeros({4, 20, 20});
  maps[1].narrow(0, 0, 2).fill_(1);
  maps[2].narrow(0, 18, 2).fill_(1);
  maps[3].fill_(1);
  const PackedMasks packed = pack_masks(here(maps));
  const at::Tensor expected = at::tensor({0.f, 0.f, 0.f, 0.f,     //
                                          0.f, 1.f, 0.f, 0.1f,    //
                                          0.f, 0.f, 1.f, 0.1f,    //
                                          0.f, 0.1f, 0.1f, 1.f})  //
                                  .view({4, 4});
  EXPECT_TRUE(same(mask_iou(packed, packed), expected));
}

TEST_P(BinaryMasksTest, MatrixNmsMatchesMatrixProduct) {
  for (const int64_t n : {1, 2, 31, 32, 33, 150}) {
    for (const int64_t classes : {1, 4, 80}) {
      const at::Tensor maps = random_maps(n, 37, 41), scores = descending(n);
      const at::Tensor labels = at::randint(-2, classes - 2, {n}, at::kLong);
      const PackedMasks packed = pack_masks(here(maps));
      for (const double sigma : {2.0, 0.5}) {
        const at::Tensor gaussian = matrix_nms(packed, here(scores), here(labels), "gaussian", sigma);
        EXPECT_LE(difference(gaussian, plain_matrix_nms(maps > 0.5, scores, labels, true, sigma)), 1e-6);
      }
      const at::Tensor linear = matrix_nms(packed, here(scores), here(labels), "linear");
      EXPECT_LE(difference(linear, plain_matrix_nms(maps > 0.5, scores, labels, false, 1)), 1e-5) << n;
    }
  }
}

TEST_P(BinaryMasksTest, MatrixNmsOfCopies) {
  const at::Tensor maps = random_maps(1, 30, 30).repeat({4, 1, 1});
  const at::Tensor scores = at::tensor({0.8f, 0.8f, 0.4f, 0.2f});
  const at::Tensor labels = at::tensor({int64_t{5}, int64_t{5}, int64_t{5}, int64_t{6}});
  const PackedMasks packed = pack_masks(here(maps));
  EXPECT_TRUE(
      same(matrix_nms(packed, here(scores), here(labels), "linear"), at::tensor({0.8f, 0.0f, 0.0f, 0.2f})));
  const float decay = std::exp(-2.0f);
  EXPECT_LE(difference(matrix_nms(packed, here(scores), here(labels)),
                       at::tensor({0.8f, 0.8f * decay, 0.4f * decay, 0.2f})),
            1e-7);
}

TEST_P(BinaryMasksTest, MatrixNmsOfEmptyMasks) {
  const at::Tensor scores = at::tensor({0.9f, 0.5f, 0.5f}), labels = at::zeros({3}, at::kLong);
  for (const at::Tensor& maps : {at::zeros({3, 8, 9}), at::zeros({3, 0, 9})}) {
    const PackedMasks packed = pack_masks(here(maps));
    for (const char* kernel : {"gaussian", "linear"}) {
      EXPECT_TRUE(same(matrix_nms(packed, here(scores), here(labels), kernel), scores)) << kernel;
    }
    EXPECT_TRUE(same(mask_nms(packed, here(scores), here(labels), 0.0), at::arange(3, at::kLong)));
    EXPECT_TRUE(same(mask_iou(packed, packed), at::zeros({3, 3})));
  }
}

TEST_P(BinaryMasksTest, MaskNmsMatchesPlainTwin) {
  for (const int64_t n : {1, 63, 64, 65, 130}) {
    const at::Tensor maps = random_maps(n, 24, 31), scores = (at::rand({n}) * 20).floor() / 20;  // ties
    const at::Tensor labels = at::randint(0, 3, {n}, at::kLong);
    for (const double threshold : {0.0, 0.3, 0.5, 1.0}) {
      const at::Tensor keep = mask_nms(pack_masks(here(maps)), here(scores), here(labels), threshold);
      EXPECT_TRUE(same(keep, plain_mask_nms(maps > 0.5, scores, labels, threshold))) << n << " " << threshold;
    }
  }
}

TEST_P(BinaryMasksTest, MaskNmsThresholdIsExclusiveAndNanScoresComeLast) {
  at::Tensor maps = at::zeros({3, 1, 10});
  maps[0].fill_(1);
  maps[1].narrow(1, 0, 6).fill_(1);  // IoU float(0.6) with the first: above the double 0.6
  maps[2].narrow(1, 0, 6).fill_(1);
  const PackedMasks packed = pack_masks(here(maps));
  const at::Tensor scores = at::tensor({0.5f, 0.25f, NAN}), labels = at::zeros({3}, at::kLong);
  const auto kept = [&](double threshold) { return mask_nms(packed, here(scores), here(labels), threshold); };
  EXPECT_TRUE(same(kept(0.6), at::tensor({int64_t{0}})));
  EXPECT_TRUE(same(kept(static_cast<double>(0.6f)), at::tensor({int64_t{0}, int64_t{1}})));
  EXPECT_TRUE(same(kept(1.0), at::arange(3, at::kLong)));  // copies have exactly 1
}

TEST_P(BinaryMasksTest, NoMasks) {
  const PackedMasks none = pack_masks(here(at::zeros({0, 20, 30})));
  EXPECT_EQ(none.bits.sizes(), at::IntArrayRef({0, 10}));
  EXPECT_EQ(none.size(), 0);
  const at::Tensor scores = here(at::zeros({0})), labels = here(at::zeros({0}, at::kLong));
  EXPECT_EQ(matrix_nms(none, scores, labels).sizes(), at::IntArrayRef({0}));
  const at::Tensor kept = mask_nms(none, scores, labels, 0.5);
  EXPECT_EQ(kept.sizes(), at::IntArrayRef({0}));
  EXPECT_EQ(kept.scalar_type(), at::kLong);
  EXPECT_EQ(mask_iou(none, pack_masks(here(at::zeros({3, 20, 30})))).sizes(), at::IntArrayRef({0, 3}));
  EXPECT_EQ(none.select(labels).bits.sizes(), at::IntArrayRef({0, 10}));
}

TEST_P(BinaryMasksTest, RejectsBadInput) {
  const PackedMasks masks = pack_masks(here(at::rand({3, 8, 8})));
  const at::Tensor scores = here(at::tensor({0.9f, 0.5f, 0.1f})), labels = here(at::zeros({3}, at::kLong));
  expect_error<ValueError>([&] { pack_masks(here(at::rand({8, 8}))); }, "probabilities have shape [8, 8]");
  expect_error<TypeError>([&] { pack_masks(here(at::rand({3, 8, 8}) > 0.5)); }, "probabilities is Bool");
  expect_error<ValueError>([&] { pack_masks(here(at::rand({3, 8, 8})), NAN); }, "threshold is nan");
  expect_error<ValueError>([&] { mask_iou(masks, pack_masks(here(at::rand({3, 9, 8})))); }, "b 2; pack");
  expect_error<ValueError>([&] { mask_iou(masks, PackedMasks{}); }, "[mask_iou] b are missing");
  expect_error<TypeError>([&] { mask_iou({masks.bits.to(at::kInt), masks.areas, masks.mass}, masks); },
                          "bits is Int");
  expect_error<ValueError>([&] { mask_iou({masks.bits, masks.areas.narrow(0, 0, 2), masks.mass}, masks); },
                           "areas has shape [2]");
  expect_error<ValueError>([&] { matrix_nms(masks, scores.narrow(0, 0, 2), labels); },
                           "[matrix_nms] scores has shape [2]; expected [3]");
  expect_error<TypeError>([&] { matrix_nms(masks, scores, labels.to(at::kInt)); }, "labels is Int");
  expect_error<ValueError>([&] { matrix_nms(masks, scores, labels, "square"); }, "kernel is 'square'");
  expect_error<ValueError>([&] { matrix_nms(masks, scores, labels, "gaussian", 0.0); }, "sigma is 0");
  expect_error<ValueError>([&] { matrix_nms(masks, scores, labels, "gaussian", INFINITY); }, "sigma is inf");
  expect_error<ValueError>([&] { mask_nms(masks, scores, labels, 1.5); }, "iou_threshold is 1.5");
  expect_error<TypeError>([&] { mask_nms(masks, scores.to(at::kDouble), labels, 0.5); }, "scores is Double");
  expect_error<TypeError>([&] { masks.select(scores); }, "[PackedMasks.select] index is Float");
}

TEST(BinaryMasksCpuTest, MatrixNmsWantsSortedMasks) {
  const PackedMasks masks = pack_masks(at::rand({3, 8, 8}));
  expect_error<ValueError>(
      [&] { matrix_nms(masks, at::tensor({0.5f, 0.2f, 0.3f}), at::zeros({3}, at::kLong)); },
      "[matrix_nms] scores[2] is 0.3 after 0.2; sort");
}

TEST(BinaryMasksCpuTest, ThreadsDoNotChangeTheResult) {
  at::manual_seed(3);
  const at::Tensor maps = random_maps(300, 90, 100), scores = descending(300);
  const at::Tensor labels = at::randint(0, 3, {300}, at::kLong);
  std::vector<std::vector<at::Tensor>> results;
  const int before = at::get_num_threads();
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    const PackedMasks packed = pack_masks(maps);
    results.push_back({packed.bits, packed.areas, packed.mass, mask_iou(packed, packed),
                       matrix_nms(packed, scores, labels), matrix_nms(packed, scores, labels, "linear"),
                       mask_nms(packed, scores, labels, 0.5)});
  }
  at::set_num_threads(before);
  for (size_t i = 0; i < results[0].size(); ++i) EXPECT_TRUE(results[0][i].equal(results[1][i])) << i;
}

}  // namespace
}  // namespace instseg
