// SPDX-License-Identifier: Apache-2.0
#include "instseg/mask_targets.h"

#include <limits>

#include "instseg/ops/rasterize.h"
#include "ops/device_test.h"

namespace instseg {
namespace {

using test::expect_error;
using test::same;

const Polygons kSquare = {{2, 3, 9, 3, 9, 8, 2, 8}};

TEST(MaskTargets, AreasAndRunLengths) {
  MaskTargets masks({20, 30});
  masks.add(kSquare);
  at::Tensor bitmap = at::zeros({20, 30}, at::kByte);
  bitmap.narrow(0, 3, 5).narrow(1, 2, 7).fill_(1);
  masks.add(rle_encode(bitmap));
  EXPECT_EQ(masks.areas(), (std::vector<int64_t>{35, 35}));
  EXPECT_EQ(masks.rle({20, 30})[0], masks.rle({20, 30})[1]);
  const Rle padded = masks.rle({24, 40})[1];
  EXPECT_EQ(padded.size, (ImageSize{24, 40}));
  EXPECT_TRUE(same(rle_decode(padded).narrow(0, 0, 20).narrow(1, 0, 30), bitmap));
  EXPECT_EQ(padded.area(), 35);
}

TEST(MaskTargets, UnionOfParts) {
  MaskTargets masks({20, 30});
  masks.add(Polygons{kSquare[0], {5, 5, 12, 5, 12, 10, 5, 10}, {20, 3, 22, 3, 22, 5, 20, 5}});
  EXPECT_EQ(masks.areas(), (std::vector<int64_t>{35 + 35 - 12 + 4}));
}

TEST(MaskTargets, ResizedAndFlipped) {
  MaskTargets masks({20, 30});
  masks.add(kSquare);
  at::Tensor bitmap = at::zeros({20, 30}, at::kByte);
  bitmap.narrow(0, 3, 5).narrow(1, 2, 7).fill_(1);
  masks.add(rle_encode(bitmap));
  const MaskTargets moved = masks.resized({40, 60}).flipped();
  const std::vector<double> expected = {56, 6, 42, 6, 42, 16, 56, 16};
  EXPECT_EQ(std::get<Polygons>(moved.items()[0])[0], expected);
  EXPECT_TRUE(same(rle_decode(std::get<Rle>(moved.items()[1])), resize_nearest(bitmap, {40, 60}).flip(1)));
  EXPECT_EQ(moved.areas(), (std::vector<int64_t>{140, 140}));
  EXPECT_EQ(masks.flipped().flipped(), masks);
  EXPECT_NE(masks.flipped(), masks);
}

TEST(MaskTargets, Cropped) {
  MaskTargets masks({20, 30});
  masks.add(kSquare);
  at::Tensor bitmap = at::zeros({20, 30}, at::kByte);
  bitmap.narrow(0, 3, 5).narrow(1, 2, 7).fill_(1);
  masks.add(rle_encode(bitmap));
  masks.add(Polygons{{20, 10, 29, 10, 29, 19, 20, 19}});
  const MaskTargets part = masks.cropped({4, 5, 10, 8});
  EXPECT_EQ(part.image_size(), (ImageSize{8, 10}));
  EXPECT_EQ(part.areas(), (std::vector<int64_t>{15, 15, 0}));
  EXPECT_TRUE(
      same(rle_decode(std::get<Rle>(part.items()[1])), bitmap.narrow(0, 5, 8).narrow(1, 4, 10).contiguous()));
  const std::array<double, 4> expected = {0, 0, 5, 3};
  EXPECT_EQ(part.boxes(), (std::vector<std::array<double, 4>>{expected, expected, {}}));
  EXPECT_EQ(masks.cropped({0, 0, 30, 20}), masks);
  expect_error<ValueError>([&] { masks.cropped({21, 0, 10, 5}); },
                           "at x 21, y 0 is not in the 30 x 20 image");
  expect_error<ValueError>([&] { masks.cropped({0, 0, 0, 5}); }, "0 x 5 pixels");
}

// A U whose arms the border separates: two rings, and no vertex outside of the intersection.
TEST(MaskTargets, CroppedIntoParts) {
  MaskTargets masks({20, 30});
  masks.add(Polygons{{2, 1, 6, 1, 6, 11, 14, 11, 14, 4, 18, 4, 18, 15, 2, 15}});
  const MaskTargets part = masks.cropped({0, 0, 30, 10});
  EXPECT_EQ(std::get<Polygons>(part.items()[0]).size(), 2);
  EXPECT_EQ(part.areas(), (std::vector<int64_t>{4 * 9 + 4 * 6}));
  EXPECT_EQ(masks.cropped({7, 0, 23, 10}).boxes()[0], (std::array<double, 4>{7, 4, 11, 10}));
}

TEST(MaskTargets, Select) {
  MaskTargets masks({20, 30});
  masks.add(kSquare);
  masks.add(Polygons{{0, 0, 1, 0, 1, 1, 0, 1}});
  EXPECT_EQ(masks.select({1, 0, 1}).areas(), (std::vector<int64_t>{1, 35, 1}));
  expect_error<ValueError>([&] { masks.select({2}); }, "index 2 is outside 0..1");
}

TEST(MaskTargets, RejectsBadMasks) {
  MaskTargets masks({4, 5});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_error<ValueError>([&] { masks.add(Polygons{}); }, "without a polygon");
  expect_error<ValueError>([&] { masks.add(Polygons{{0, 0, 1, 1}}); }, "has 2 points");
  expect_error<ValueError>([&] { masks.add(Polygons{{0, 0, 1, 1, 2, 2, 3}}); }, "has 7 coordinates");
  expect_error<ValueError>([&] { masks.add(Polygons{{0, 0, 1, 1, 2, nan}}); }, "coordinate is nan");
  expect_error<ValueError>([&] { masks.add(Rle{{5, 4}, {20}}); }, "of size 5x4 for an image of 4x5");
  expect_error<ValueError>([&] { masks.add(Rle{{4, 5}, {19}}); }, "cover 19 pixels");
  EXPECT_EQ(masks.size(), 0);
}

}  // namespace
}  // namespace instseg
