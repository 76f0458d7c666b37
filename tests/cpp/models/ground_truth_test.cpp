// SPDX-License-Identifier: Apache-2.0
#include "models/ground_truth.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <string>
#include <utility>

#include "instseg/error.h"
#include "networks.h"

namespace instseg {
namespace {

constexpr ImageSize kCanvas{24, 32};

at::Tensor box(float x1, float y1, float x2, float y2) { return at::tensor({x1, y1, x2, y2}).view({1, 4}); }

TEST(RasterizeBoxes, FillsTruncatedRowsAndColumns) {
  const auto masks = rasterize_boxes(box(3.9F, 5.2F, 9.4F, 7.0F), kCanvas, 1, 0);
  auto expected = at::zeros({24, 32}, at::kByte);
  expected.narrow(0, 5, 3).narrow(1, 3, 7).fill_(1);  // rows 5 .. 8-1, columns 3 .. 10-1
  EXPECT_EQ(masks.sampled.scalar_type(), at::kByte);
  EXPECT_TRUE(masks.sampled[0].equal(expected));
  EXPECT_EQ(masks.areas.item<int64_t>(), 21);
  EXPECT_TRUE(masks.centers.equal(at::tensor({6.F, 6.F}).view({1, 2})));
}

TEST(RasterizeBoxes, IsCutToTheCanvas) {
  const auto boxes = at::tensor({-5.5F, -0.5F,  2.0F,  3.0F,     // columns 0..2, rows 0..3
                                 28.0F, 20.0F,  60.0F, 31.0F,    // columns 28..31, rows 20..23
                                 -9.0F, -9.0F,  -2.0F, 50.0F,    // left of it
                                 40.0F, 2.0F,   50.0F, 8.0F,     // right of it
                                 -3e9F, -3e38F, 3e9F,  3e38F});  // all of it
  const auto masks = rasterize_boxes(boxes.view({5, 4}), kCanvas, 1, 0);
  EXPECT_TRUE(masks.areas.equal(at::tensor({12, 16, 0, 0, 768}, at::kLong)));
  EXPECT_TRUE(masks.centers.equal(
      at::tensor({1.F, 1.5F, 29.5F, 21.5F, 0.F, 0.F, 0.F, 0.F, 15.5F, 11.5F}).view({5, 2})));
  EXPECT_TRUE(masks.sampled.sum({1, 2}).equal(masks.areas));
}

TEST(RasterizeBoxes, SamplesEqualThoseOfTheFullBitmap) {
  at::Tensor boxes = at::zeros({60, 4});
  for (int64_t i = 0; i < 60; ++i) {
    const auto k = static_cast<double>(i);
    boxes[i].copy_(at::tensor({k * 0.7 - 6, 20 - k * 0.4, k * 0.7 - 6 + i % 9, 20.5 - k * 0.4 + i % 13}));
  }
  const auto full = rasterize_boxes(boxes, kCanvas, 1, 0);
  for (const auto& [stride, offset] : {std::pair<int64_t, int64_t>{4, 2}, {8, 4}, {2, 1}, {3, 0}, {5, 4}}) {
    const auto sampled = rasterize_boxes(boxes, kCanvas, stride, offset);
    EXPECT_TRUE(sampled.sampled.equal(
        full.sampled.slice(1, offset, std::nullopt, stride).slice(2, offset, std::nullopt, stride)))
        << stride << ' ' << offset;
    EXPECT_TRUE(sampled.areas.equal(full.areas));
    EXPECT_TRUE(sampled.centers.equal(full.centers));
  }
}

TEST(RasterizeBoxes, CentersAreMeansOfThePixelsInside) {
  const auto masks = rasterize_boxes(box(3.0F, 2.0F, 12.5F, 30.0F), kCanvas, 1, 0);
  const auto inside = masks.sampled[0].nonzero().to(at::kFloat).mean(0);
  EXPECT_EQ(masks.centers[0][0].item<float>(), inside[1].item<float>());
  EXPECT_EQ(masks.centers[0][1].item<float>(), inside[0].item<float>());
}

TEST(RasterizeBoxes, NoBoxes) {
  const auto masks = rasterize_boxes(at::zeros({0, 4}), kCanvas, 4, 2);
  EXPECT_TRUE(masks.sampled.sizes().equals({0, 6, 8}));
  EXPECT_TRUE(masks.centers.sizes().equals({0, 2}));
  EXPECT_TRUE(masks.areas.sizes().equals({0}));
}

std::string error_of(const Targets& targets) {
  try {
    masks_of(targets, kCanvas, 3);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

TEST(MasksOf, GivesTheMasksOfTheBoxes) {
  MaskTargets masks({24, 32});
  masks.add(Polygons{{1, 1, 9, 1, 9, 9, 1, 9}});
  const Targets targets{.boxes = box(1, 1, 9, 9), .labels = at::zeros({1}, at::kLong), .masks = masks};
  EXPECT_EQ(masks_of(targets, {24, 32}, 0), masks);
}

TEST(MasksOf, AnImageWithoutObjectsNeedsNone) {
  const Targets targets{.boxes = at::zeros({0, 4}), .labels = at::zeros({0}, at::kLong)};
  EXPECT_EQ(masks_of(targets, {24, 32}, 0).size(), 0);
}

TEST(MasksOf, MasksOfAnotherSizeAreAnError) {
  MaskTargets masks({20, 32});
  masks.add(Polygons{{1, 1, 9, 1, 9, 9, 1, 9}});
  const Targets targets{.boxes = box(1, 1, 9, 9), .labels = at::zeros({1}, at::kLong), .masks = masks};
  EXPECT_NE(error_of(targets).find("masks of image 3 are of a 20 x 32 image, the network sees"),
            std::string::npos);
}

TEST(MasksOf, MissingMasksAreAnError) {
  Targets targets{.boxes = at::zeros({2, 4}), .labels = at::zeros({2}, at::kLong)};
  EXPECT_EQ(
      error_of(targets),
      "[losses] targets of image 3 have no masks, which this model is trained with; add \"masks\" to them");
  targets.masks = MaskTargets({24, 32});
  targets.masks->add(Polygons{{1, 1, 9, 1, 9, 9, 1, 9}});
  EXPECT_EQ(error_of(targets), "[losses] targets of image 3 have 1 masks for 2 boxes");
}

}  // namespace
}  // namespace instseg
