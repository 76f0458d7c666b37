// SPDX-License-Identifier: Apache-2.0
#include "instseg/preprocess.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "instseg/error.h"
#include "ops/resize.h"

namespace instseg {
namespace {

InputConfig input(const std::string& resize, int64_t short_side = 800, int64_t long_side = 1333) {
  InputConfig config;
  config.resize = resize;
  config.short_side = short_side;
  config.long_side = long_side;
  return config;
}

at::Tensor random_image(int64_t height, int64_t width) {
  return at::randint(256, {height, width, 3}, at::kByte);
}

TEST(NetworkSize, FollowsTheRuleOfTheKernel) {
  EXPECT_EQ(network_size({480, 640}, input("pillow")), (ImageSize{800, 1067}));
  EXPECT_EQ(network_size({640, 480}, input("pillow")), (ImageSize{1067, 800}));
  EXPECT_EQ(network_size({300, 1000}, input("pillow")), (ImageSize{400, 1333}));
  EXPECT_EQ(network_size({480, 640}, input("opencv")), (ImageSize{800, 1067}));
  EXPECT_EQ(network_size({480, 640}, input("float")), (ImageSize{800, 1066}));  // rounds down
  EXPECT_EQ(network_size({1, 5000}, input("pillow")), (ImageSize{1, 1333}));    // never empty
  EXPECT_THROW(network_size({0, 10}, input("pillow")), ValueError);
}

TEST(MakeBatch, EqualsSubtractionAndDivisionInFloat) {
  InputConfig config;
  config.mean = {1.25, 100.7, 123.675};
  config.std = {57.375, 57.12, 3.3};
  for (const char* order : {"rgb", "bgr"}) {
    config.channel_order = order;
    for (const auto dtype : {at::kByte, at::kFloat}) {
      const at::Tensor image = random_image(37, 50).to(dtype);
      const ImageBatch batch = make_batch({image}, config);
      ASSERT_EQ(batch.pixels.sizes(), at::IntArrayRef({1, 3, 64, 64}));
      EXPECT_TRUE(batch.pixels.is_contiguous(at::MemoryFormat::ChannelsLast));
      at::Tensor x = image.to(at::kFloat);
      if (config.channel_order == "bgr") x = x.flip(2);
      x = x.sub(at::tensor({1.25f, 100.7f, 123.675f})).div(at::tensor({57.375f, 57.12f, 3.3f}));
      EXPECT_TRUE(at::equal(batch.pixels[0].narrow(1, 0, 37).narrow(2, 0, 50), x.permute({2, 0, 1})));
      EXPECT_EQ(batch.pixels.narrow(2, 37, 27).abs().sum().item<double>(), 0);
      EXPECT_EQ(batch.pixels.narrow(3, 50, 14).abs().sum().item<double>(), 0);
    }
  }
}

TEST(MakeBatch, PadsToTheLargestImage) {
  const ImageBatch batch =
      make_batch({random_image(10, 70), random_image(40, 20)}, InputConfig{}, {{1, 7}, {80, 40}});
  EXPECT_EQ(batch.pixels.sizes(), at::IntArrayRef({2, 3, 64, 96}));
  EXPECT_EQ(batch.sizes, (std::vector<ImageSize>{{10, 70}, {40, 20}}));
  EXPECT_EQ(batch.original_sizes, (std::vector<ImageSize>{{1, 7}, {80, 40}}));
}

TEST(MakeBatch, ChecksItsArguments) {
  const InputConfig config;
  EXPECT_THROW(make_batch({}, config), ValueError);
  EXPECT_THROW(make_batch({at::Tensor()}, config), ValueError);
  EXPECT_THROW(make_batch({random_image(4, 4), random_image(4, 4).select(2, 0)}, config), ValueError);
  EXPECT_THROW(make_batch({random_image(4, 4).to(at::kDouble)}, config), ValueError);
  EXPECT_THROW(make_batch({random_image(4, 4)}, config, {{1, 1}, {2, 2}}), ValueError);
  EXPECT_THROW(make_batch({random_image(4, 4).narrow(0, 0, 0)}, config), ValueError);
}

TEST(Preprocess, ResizesAndRemembersTheOriginalSize) {
  for (const char* kernel : {"pillow", "opencv", "float"}) {
    const InputConfig config = input(kernel, 64, 100);
    const at::Tensor image = random_image(30, 41);
    const ImageBatch batch = preprocess({image}, config);
    const ImageSize size = network_size({30, 41}, config);
    EXPECT_EQ(batch.sizes[0], size);
    EXPECT_EQ(batch.original_sizes[0], (ImageSize{30, 41}));
    EXPECT_TRUE(at::equal(batch.pixels, make_batch({resize_image(image, size, kernel)}, config).pixels));
  }
}

TEST(ResizeImage, TakesStridedImagesAndChecksArguments) {
  const at::Tensor image = random_image(12, 10);
  EXPECT_TRUE(at::equal(resize_image(image.flip(1).flip(1).transpose(0, 1), {9, 9}, "pillow"),
                        resize_image(image.transpose(0, 1).contiguous(), {9, 9}, "pillow")));
  EXPECT_TRUE(at::equal(resize_image(image, {12, 10}, "pillow"), image));
  EXPECT_THROW(resize_image(image, {0, 4}, "pillow"), ValueError);
  EXPECT_THROW(resize_image(image, {4, 4}, "cubic"), ValueError);
  EXPECT_THROW(resize_image(image.to(at::kFloat), {4, 4}, "float"), TypeError);
  EXPECT_THROW(resize_image(image.select(2, 0), {4, 4}, "pillow"), ValueError);
}

TEST(ResizeMask, KeepsLabels) {
  const at::Tensor mask = at::full({5, 7}, 9, at::kByte);
  mask.select(0, 0).fill_(200);
  for (const char* rule : {"pillow", "opencv"}) {
    const at::Tensor large = resize_mask(mask, {10, 14}, rule);
    EXPECT_TRUE(large.narrow(0, 0, 2).eq(200).all().item<bool>());
    EXPECT_TRUE(large.narrow(0, 2, 8).eq(9).all().item<bool>());
  }
  EXPECT_THROW(resize_mask(mask, {4, 4}, "float"), ValueError);
  EXPECT_THROW(resize_mask(mask.to(at::kLong), {4, 4}, "pillow"), TypeError);
}

}  // namespace
}  // namespace instseg
