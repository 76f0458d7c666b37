// SPDX-License-Identifier: Apache-2.0
#include "instseg/rle.h"

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::expect_error;

TEST(Rle, EncodesDownTheColumns) {
  const at::Tensor bitmap = at::tensor({0, 1, 1, 0, 1, 0}, at::kByte).view({2, 3});
  const Rle rle = rle_encode(bitmap);
  EXPECT_EQ(rle.counts, (std::vector<uint32_t>{2, 3, 1}));  // columns 0 0, 1 1, 1 0
  EXPECT_EQ(rle.area(), 3);
  EXPECT_TRUE(at::equal(rle_decode(rle), bitmap));
}

TEST(Rle, TextIsCocos) {  // as pycocotools writes these
  EXPECT_EQ((Rle{{2, 3}, {0, 6}}.compressed()), "06");
  EXPECT_EQ((Rle{{2, 3}, {6}}.compressed()), "6");
  const Rle rle{{40, 40}, {100, 31, 9, 30, 1430}};
  EXPECT_EQ(rle.compressed(), "T3o09O]\\1");
  EXPECT_EQ(Rle::from_compressed(rle.compressed(), rle.size), rle);
}

TEST(Rle, RoundTripsRandomBitmaps) {
  at::manual_seed(1);
  for (const double share : {0.0, 0.01, 0.3, 0.99, 1.0}) {
    for (const auto& size : {ImageSize{1, 1}, ImageSize{13, 9}, ImageSize{64, 200}}) {
      const at::Tensor bitmap = at::rand({size.height, size.width}).lt(share);
      const Rle rle = rle_encode(bitmap);
      EXPECT_TRUE(at::equal(rle_decode(rle), bitmap.to(at::kByte)));
      EXPECT_EQ(rle.area(), bitmap.sum().item<int64_t>());
      EXPECT_EQ(Rle::from_compressed(rle.compressed(), size), rle);
    }
  }
}

TEST(Rle, RefusesWhatDoesNotFit) {
  const ImageSize size{4, 5};
  expect_error<ValueError>([&] { Rle::from_compressed("", size); }, "cover 0 pixels");
  expect_error<ValueError>([&] { Rle::from_compressed("e0", size); }, "run 0 of 21 pixels does not fit");
  expect_error<ValueError>([&] { Rle::from_compressed("d", size); }, "ends within a number");
  expect_error<ValueError>([&] { Rle::from_compressed("oooooooo0", size); }, "too large");
  expect_error<ValueError>([&] { Rle::from_compressed("d0 ", size); }, "character 2");
  expect_error<ValueError>([&] { (Rle{size, {1, 2}}.check()); }, "cover 3 pixels, the image of 4x5 has 20");
  expect_error<ValueError>([&] { (Rle{{-1, 2}, {}}.check()); }, "size -1x2");
  expect_error<TypeError>([] { rle_encode(at::zeros({2, 2})); }, "bitmap is Float");
  expect_error<ValueError>([] { rle_encode(at::zeros({2}, at::kByte)); }, "expected [H, W]");
  expect_error<ValueError>([] { rle_encode(at::Tensor()); }, "missing");
}

}  // namespace
}  // namespace instseg
