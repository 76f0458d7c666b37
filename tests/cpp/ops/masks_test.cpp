// SPDX-License-Identifier: Apache-2.0
#include "instseg/masks.h"

#include "instseg/instances.h"
#include "ops/device_test.h"

namespace instseg {
namespace {

using test::expect_error;

class MasksTest : public test::DeviceTest {
 protected:
  // A map of the padded network image: smooth noise.
  Masks image_masks(int64_t n, ImageSize map, int64_t stride, ImageSize network, ImageSize image) const {
    const at::Tensor coarse = at::rand({n, 1, map.height / 3 + 2, map.width / 3 + 2});
    const at::Tensor smooth = at::upsample_bilinear2d(coarse, {map.height, map.width}, false).squeeze(1);
    return {.probabilities = here(smooth), .stride = stride, .network_size = network, .image_size = image};
  }

  Masks box_masks(int64_t n, ImageSize image) const {
    const at::Tensor corner = at::rand({n, 2}) * 80 - 20, extent = at::rand({n, 2}) * 90;
    return {.probabilities = here(at::rand({n, 14, 14})),
            .placement = "box",
            .boxes = here(at::cat({corner, corner + extent}, 1)),
            .inclusive = true,
            .image_size = image};
  }
};
INSTSEG_ON_DEVICES(MasksTest);

// All forms of the result say the same.
void expect_consistent(const Masks& masks) {
  const at::Tensor bitmaps = masks.bitmaps(), area = masks.area();
  ASSERT_EQ(bitmaps.device(), masks.probabilities.device());
  const std::vector<Rle> rles = masks.rle();
  const std::vector<MaskCrop> crops = masks.crops();
  const at::Tensor boxes = masks.tight_boxes();
  EXPECT_TRUE(boxes.is_cpu());
  ASSERT_EQ(rles.size(), static_cast<size_t>(masks.size()));
  for (int64_t i = 0; i < masks.size(); ++i) {
    const at::Tensor bitmap = bitmaps[i].cpu();
    EXPECT_EQ(rles[i], rle_encode(bitmap));
    EXPECT_EQ(area[i].item<int64_t>(), bitmap.sum().item<int64_t>());
    const MaskCrop& crop = crops[i];
    at::Tensor pasted = at::zeros_like(bitmap);
    pasted.narrow(0, crop.y, crop.bitmap.size(0)).narrow(1, crop.x, crop.bitmap.size(1)).copy_(crop.bitmap);
    EXPECT_TRUE(at::equal(pasted, bitmap));
    const auto right = crop.x + crop.bitmap.size(1), bottom = crop.y + crop.bitmap.size(0);
    EXPECT_TRUE(at::equal(boxes[i], at::tensor({crop.x, crop.y, right, bottom}, at::kFloat)));
  }
}

TEST_P(MasksTest, IdentityIsTheThreshold) {
  const Masks masks = image_masks(5, {30, 40}, 1, {28, 37}, {28, 37});
  EXPECT_TRUE(test::same(masks.bitmaps(),
                         masks.probabilities.narrow(1, 0, 28).narrow(2, 0, 37).gt(0.5).to(at::kByte)));
  expect_consistent(masks);
}

TEST_P(MasksTest, ResizeAlone) {
  const Masks masks = image_masks(4, {24, 20}, 1, {24, 20}, {61, 47});
  const at::Tensor twin =
      at::upsample_bilinear2d(masks.probabilities.cpu().to(at::kDouble).unsqueeze(1), {61, 47}, false)
          .squeeze(1);
  const at::Tensor differs = masks.bitmaps().cpu().ne(twin.gt(0.5)), near = twin.sub(0.5).abs().lt(1e-5);
  EXPECT_FALSE(differs.logical_and(near.logical_not()).any().item<bool>());
  expect_consistent(masks);
}

TEST_P(MasksTest, AllFormsAgree) {
  expect_consistent(image_masks(6, {25, 42}, 4, {100, 167}, {200, 333}));
  expect_consistent(image_masks(6, {25, 42}, 8, {200, 330}, {97, 131}));
  expect_consistent(box_masks(20, {70, 90}));
}

TEST_P(MasksTest, HalfPixelIsTwoBilinearResizes) {
  for (const int64_t stride : {1, 2, 3, 4, 8}) {
    for (const ImageSize image : {ImageSize{131, 77}, ImageSize{40, 33}}) {
      const ImageSize network{25 * stride - 1, 18 * stride};
      Masks masks = image_masks(4, {25, 18}, stride, network, image);
      masks.enlarge = "half_pixel";
      const auto map = masks.probabilities.cpu().to(at::kDouble).unsqueeze(1);
      const auto large = at::upsample_bilinear2d(map, {25 * stride, 18 * stride}, false)
                             .narrow(2, 0, network.height)
                             .narrow(3, 0, network.width);
      const auto twin = at::upsample_bilinear2d(large, {image.height, image.width}, false).squeeze(1);
      const auto differs = masks.bitmaps().cpu().ne(twin.gt(0.5)), near = twin.sub(0.5).abs().lt(1e-5);
      EXPECT_FALSE(differs.logical_and(near.logical_not()).any().item<bool>()) << stride;
      EXPECT_EQ(masks.to(at::kCPU).rle(), masks.rle());
      expect_consistent(masks);
    }
  }
}

TEST_P(MasksTest, TightBoxes) {
  at::Tensor map = at::zeros({3, 5, 6});
  map[0].narrow(0, 1, 2).narrow(1, 3, 3).fill_(1);
  map[2].fill_(1);
  const Masks masks{.probabilities = here(map), .stride = 1, .network_size = {5, 6}, .image_size = {5, 6}};
  const auto expected = at::tensor({3.F, 1.F, 6.F, 3.F, 0.F, 0.F, 0.F, 0.F, 0.F, 0.F, 6.F, 5.F});
  EXPECT_TRUE(at::equal(masks.tight_boxes(), expected.view({3, 4})));
}

TEST_P(MasksTest, DevicesAgree) {
  for (const Masks& masks : {image_masks(6, {25, 42}, 4, {97, 166}, {211, 333}), box_masks(20, {70, 90})}) {
    const Masks there = masks.to(at::kCPU);
    EXPECT_EQ(masks.rle(), there.rle());
    EXPECT_TRUE(test::same(masks.bitmaps(), there.bitmaps()));
  }
}

TEST_P(MasksTest, NoMasks) {
  const Masks masks = image_masks(0, {25, 42}, 4, {100, 167}, {200, 333});
  EXPECT_EQ(masks.bitmaps().sizes(), at::IntArrayRef({0, 200, 333}));
  EXPECT_TRUE(masks.rle().empty() && masks.crops().empty() && masks.polygons().empty());
  EXPECT_EQ(masks.area().numel(), 0);
  EXPECT_EQ(masks.tight_boxes().sizes(), at::IntArrayRef({0, 4}));
  Masks empty = box_masks(3, {0, 9});
  EXPECT_EQ(empty.rle()[2].counts, std::vector<uint32_t>{0});
}

TEST_P(MasksTest, PolygonsFollowPixelEdges) {
  at::Tensor map = at::zeros({2, 5, 6});
  map[0].narrow(0, 1, 3).narrow(1, 2, 3).fill_(1);
  map[0][2][3].fill_(0);
  const Masks masks{.probabilities = here(map), .stride = 1, .network_size = {5, 6}, .image_size = {5, 6}};
  const auto polygons = masks.polygons();
  ASSERT_EQ(polygons[0].size(), 1u);
  EXPECT_TRUE(at::equal(polygons[0][0], at::tensor({2.f, 1.f, 5.f, 1.f, 5.f, 4.f, 2.f, 4.f}).view({4, 2})));
  EXPECT_TRUE(polygons[1].empty());
}

TEST_P(MasksTest, InstancesCarryThem) {
  const Masks masks = box_masks(3, {70, 90});
  const Instances all{masks.boxes,
                      here(at::tensor({0.9f, 0.2f, 0.6f})),
                      here(at::tensor({0, 1, 2}, at::kLong)),
                      {70, 90},
                      masks};
  const Instances some = all.above(0.5);
  EXPECT_EQ(some.masks.size(), 2);
  EXPECT_TRUE(
      test::same(some.masks.bitmaps(), masks.bitmaps().index_select(0, here(at::tensor({0, 2}, at::kLong)))));
  Instances apart = all;
  apart.masks = masks.to(at::kCPU);  // may live elsewhere than the scores
  EXPECT_EQ(apart.above(0.5).masks.rle(), some.masks.rle());
  EXPECT_EQ(all.to(at::kCPU).masks.rle(), masks.rle());
  EXPECT_FALSE((Instances{masks.boxes, all.scores, all.labels, {70, 90}}.above(0.5).masks.defined()));
}

TEST_P(MasksTest, ChecksItsFields) {
  Masks masks = box_masks(3, {70, 90});
  masks.boxes = masks.boxes.narrow(0, 0, 2);
  expect_error<ValueError>([&] { masks.rle(); }, "2 boxes for 3 masks");
  masks = image_masks(2, {5, 5}, 4, {21, 20}, {9, 9});
  expect_error<ValueError>([&] { masks.bitmaps(); },
                           "[Masks.bitmaps] network_size 21x20 does not lie in maps of 5x5");
  masks.enlarge = "nearest";
  expect_error<ValueError>([&] { masks.tight_boxes(); },
                           "enlarge 'nearest' is not one of aligned, half_pixel");
  expect_error<ValueError>([] { Masks().rle(); }, "there are no masks");
  expect_error<TypeError>([&] { masks.select(at::zeros({2})); }, "[Masks.select] the index is Float");
}

}  // namespace
}  // namespace instseg
