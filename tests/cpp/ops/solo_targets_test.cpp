// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/solo_targets.h"

#include <cmath>

#include "instseg/rle.h"
#include "kernels/mask_reduce.h"
#include "kernels/solo_cells.h"
#include "ops/device_test.h"

namespace instseg {
namespace {

using test::expect_error;
using test::same;

constexpr int64_t kClasses = 9;

// A bitmap reduced by a whole factor: two of the middle four pixels of a block must be inside.
at::Tensor plain_reduced(const at::Tensor& bitmap, int64_t factor) {
  const at::Tensor blocks =
      bitmap.to(at::kLong).view({bitmap.size(0) / factor, factor, bitmap.size(1) / factor, factor});
  const at::Tensor middle = blocks.narrow(1, factor / 2 - 1, 2).narrow(3, factor / 2 - 1, 2);
  return (middle.sum(at::IntArrayRef{1, 3}) >= 2).to(at::kByte);
}

at::Tensor padded(const at::Tensor& bitmap, const ImageSize& canvas) {
  at::Tensor out = at::zeros({canvas.height, canvas.width}, at::kByte);
  out.narrow(0, 0, bitmap.size(0)).narrow(1, 0, bitmap.size(1)).copy_(bitmap);
  return out;
}

// An object of random blocks, at most `size` large.
at::Tensor random_bitmap(const ImageSize& size) {
  const at::Tensor coarse = (at::rand({1, 1, 9, 7}) > 0.5).to(at::kFloat);
  const at::Tensor fine = at::upsample_nearest2d(coarse, {size.height, size.width})[0][0];
  at::Tensor out = at::zeros({size.height, size.width}, at::kByte);
  const auto cut = [](int64_t side) { return at::randint(0, side, {1}).item<int64_t>(); };
  const int64_t top = cut(size.height), left = cut(size.width);
  const int64_t height = cut(size.height - top) + 1, width = cut(size.width - left) + 1;
  out.narrow(0, top, height).narrow(1, left, width).copy_(fine.narrow(0, top, height).narrow(1, left, width));
  return out;
}

Targets image_of(const std::vector<at::Tensor>& bitmaps, const at::Tensor& boxes, const at::Tensor& labels) {
  MaskTargets masks({bitmaps[0].size(0), bitmaps[0].size(1)});
  for (const at::Tensor& bitmap : bitmaps) masks.add(rle_encode(bitmap.to(at::kBool)));
  return {boxes, labels, masks};
}

SoloConfig all_scales(const std::string& head) {
  SoloConfig config;
  config.head = head;
  config.min_scales.assign(5, 0);
  config.max_scales.assign(5, 2048);
  return config;
}

TEST(SoloTargets, MasksMatchTwin) {
  at::manual_seed(11);
  const ImageSize size{97, 150}, canvas{128, 160};
  std::vector<at::Tensor> bitmaps;
  for (int64_t i = 0; i < 30; ++i) bitmaps.push_back(random_bitmap(size));
  const at::Tensor boxes = at::tensor({0.f, 0.f, 9.f, 9.f}).view({1, 4}).repeat({30, 1});
  const Targets image = image_of(bitmaps, boxes, at::zeros({30}, at::kLong));
  const auto levels = solo_targets({image}, {size}, canvas, kClasses, all_scales("solov2"));
  ASSERT_EQ(levels.size(), 5);
  std::vector<at::Tensor> expected;  // of the objects with pixels
  for (const at::Tensor& bitmap : bitmaps)
    if (bitmap.any().item<bool>()) expected.push_back(plain_reduced(padded(bitmap, canvas), 4));
  for (const SoloTargets& level : levels) EXPECT_TRUE(same(level.masks, at::stack(expected)));
  const int64_t factors[] = {4, 4, 8, 16, 16};
  for (const at::Tensor& bitmap : bitmaps) {
    const Targets alone = image_of({bitmap}, boxes.narrow(0, 0, 1), at::zeros({1}, at::kLong));
    const auto out = solo_targets({alone}, {size}, canvas, kClasses, all_scales("solo"));
    for (size_t l = 0; l < out.size(); ++l) {
      ASSERT_EQ(out[l].masks.size(0), bitmap.any().item<bool>() ? 1 : 0);
      if (out[l].masks.size(0) == 0) continue;
      EXPECT_TRUE(same(out[l].masks[0], plain_reduced(padded(bitmap, canvas), factors[l])));
    }
  }
}

TEST(SoloTargets, LaterObjectTakesTheCellOrSharesIt) {
  const ImageSize size{64, 64};
  at::Tensor first = at::zeros({64, 64}, at::kByte), second = first.clone(), other = first.clone();
  first.narrow(0, 8, 16).narrow(1, 8, 16).fill_(1);
  second.narrow(0, 8, 16).narrow(1, 8, 15).fill_(1);
  other.narrow(0, 40, 8).narrow(1, 40, 8).fill_(1);
  const at::Tensor boxes = at::tensor({0.f, 0.f, 2.f, 2.f}).view({1, 4}).repeat({3, 1});
  const Targets image =
      image_of({first, other, second}, boxes, at::tensor({int64_t{4}, int64_t{5}, int64_t{6}}));
  SoloConfig config;
  config.grids.assign(5, 8);  // first and second: cell (1, 1); other: (5, 5)
  const SoloTargets last = solo_targets({image}, {size}, size, kClasses, config)[0];
  EXPECT_TRUE(same(last.cells, at::tensor({int64_t{9}, int64_t{45}})));
  EXPECT_TRUE(same(last.mask_of, at::tensor({int64_t{1}, int64_t{0}})));
  EXPECT_TRUE(same(last.masks, at::stack({plain_reduced(other, 4), plain_reduced(second, 4)})));
  EXPECT_EQ(last.labels[0][1][1].item<int64_t>(), 6);
  EXPECT_EQ((last.labels != kClasses).sum().item<int64_t>(), 2);
  config.head = "solov2";
  const SoloTargets both = solo_targets({image, image}, {size, size}, size, kClasses, config)[0];
  EXPECT_TRUE(same(both.cells, at::tensor({9, 45, 9, 9, 45, 9}, at::kLong)));
  EXPECT_TRUE(same(both.images, at::tensor({0, 0, 0, 1, 1, 1}, at::kLong)));
  EXPECT_TRUE(same(both.mask_of, at::arange(6, at::kLong)));
  EXPECT_EQ(both.labels[1][1][1].item<int64_t>(), 6);
}

TEST(SoloTargets, RegionIsAtMostThreeCellsWide) {
  kernels::CellGrid grid{10, 320, 640, 0, 1000, 0.2f};  // cells of 32 x 64 px
  const float box[4] = {0, 0, 300, 300};                // 30 px to each side
  const auto expect = [&](float x, float y, int64_t top, int64_t bottom, int64_t left, int64_t right) {
    const kernels::CellRegion got = kernels::cells_of(grid, box, x, y);
    EXPECT_EQ(got.top, top);
    EXPECT_EQ(got.bottom, bottom);
    EXPECT_EQ(got.left, left);
    EXPECT_EQ(got.right, right);
  };
  expect(96, 144, 3, 5, 1, 1);
  expect(70, 144, 3, 5, 0, 1);
  expect(3, 4, 0, 1, 0, 0);
  expect(637, 319, 9, 9, 9, 9);
  expect(637, 318, 8, 9, 9, 9);  // starts on the border, 288: in float32 that is below 9 tenths of 320
  grid.center_region = 1;        // 150 px to each side
  expect(320.5f, 160.5f, 4, 6, 4, 6);
  expect(0, 0, 0, 1, 0, 1);
  grid.min_scale = 301;
  expect(96, 144, 0, -1, 0, -1);
}

TEST(SoloTargets, ReducedSizeIsRoundedHalfUp) {
  for (const int64_t factor : {4, 8, 16}) {
    for (int64_t in = 1; in < 200; ++in) {
      const double size = std::floor(static_cast<double>(in) / static_cast<double>(factor) + 0.5);
      EXPECT_EQ(kernels::reduce_axis(in, factor).size(), static_cast<int64_t>(size));
    }
  }
}

TEST(SoloTargets, ExtentIsTight) {
  at::manual_seed(12);
  for (int64_t i = 0; i < 300; ++i) {
    const ImageSize size{at::randint(1, 12, {1}).item<int64_t>(), at::randint(1, 12, {1}).item<int64_t>()};
    const at::Tensor bitmap = random_bitmap(size);
    if (!bitmap.any().item<bool>()) continue;
    const Rle rle = rle_encode(bitmap.to(at::kBool));
    const kernels::Extent box =
        kernels::extent(kernels::runs_of_counts(rle.counts.data(), rle.counts.size()), size.height);
    const at::Tensor inside = at::nonzero(bitmap), low = inside.amin(0), high = inside.amax(0) + 1;
    EXPECT_EQ(box.top, low[0].item<int64_t>());
    EXPECT_EQ(box.left, low[1].item<int64_t>());
    EXPECT_EQ(box.bottom, high[0].item<int64_t>());
    EXPECT_EQ(box.right, high[1].item<int64_t>());
  }
}

TEST(SoloTargets, EmptyAndVanishingMasks) {
  at::Tensor point = at::zeros({5, 7}, at::kByte), nothing = point.clone();
  point[4][6] = 1;
  const at::Tensor boxes = at::tensor({0.f, 0.f, 4.f, 4.f}).view({1, 4}).repeat({2, 1});
  const Targets image = image_of({nothing, point}, boxes, at::tensor({int64_t{1}, int64_t{2}}));
  const Targets none{at::zeros({0, 4}), at::zeros({0}, at::kLong)};
  for (const char* head : {"solo", "solov2"}) {
    for (const char* frame : {"padded", "image"}) {
      SoloConfig config = all_scales(head);
      config.mask_frame = frame;
      for (const SoloTargets& level :
           solo_targets({none, image}, {{9, 9}, {5, 7}}, {32, 32}, kClasses, config)) {
        ASSERT_GE(level.cells.size(0), 1);
        EXPECT_EQ(level.images.min().item<int64_t>(), 1);
        EXPECT_EQ(level.labels.min().item<int64_t>(), 2);
        EXPECT_EQ(level.masks.size(0), 1);
        EXPECT_EQ(level.masks.sum().item<int64_t>(), 0);
      }
    }
  }
  const auto empty = solo_targets({}, {}, {32, 64}, kClasses, SoloConfig());
  EXPECT_EQ(empty[0].labels.sizes(), (at::IntArrayRef{0, 40, 40}));
  EXPECT_EQ(empty[2].masks.sizes(), (at::IntArrayRef{0, 4, 8}));
}

TEST(SoloTargets, RejectsBadInput) {
  const at::Tensor bitmap = at::ones({40, 50}, at::kByte), boxes = at::ones({1, 4}),
                   labels = at::zeros({1}, at::kLong);
  const Targets good = image_of({bitmap}, boxes, labels);
  const auto call = [](const Targets& image, ImageSize size = {40, 50}, ImageSize canvas = {64, 64}) {
    return [=] { solo_targets({image}, {size}, canvas, kClasses, SoloConfig()); };
  };
  expect_error<ValueError>(call(good, {40, 50}, {64, 70}), "canvas 64 x 70 is not a positive multiple of 32");
  expect_error<ValueError>(call(good, {40, 50}, {32, 64}), "image 0 of 40 x 50 does not fit the canvas");
  expect_error<ValueError>(call(good, {40, 51}), "masks of image 0 are of a 40 x 50 image");
  expect_error<ValueError>(call({boxes, labels}), "targets of image 0 have no masks");
  expect_error<ValueError>(call({boxes.repeat({2, 1}), labels.repeat({2}), good.masks}),
                           "1 masks for 2 boxes");
  expect_error<ValueError>(call({boxes, labels + kClasses, good.masks}), "label 9 of box 0 of image 0");
  expect_error<TypeError>(call({boxes.to(at::kDouble), labels, good.masks}), "boxes is Double");
  expect_error<ValueError>([&] { solo_targets({good}, {}, {64, 64}, kClasses, SoloConfig()); },
                           "0 sizes for 1 images");
  SoloConfig config;
  config.min_scales.pop_back();
  expect_error<ValueError>([&] { solo_targets({good}, {{40, 50}}, {64, 64}, kClasses, config); },
                           "min_scales");
}

}  // namespace
}  // namespace instseg
