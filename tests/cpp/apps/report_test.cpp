// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace instseg::apps {
namespace {

Detected found(bool masks) {
  Instances instances{at::tensor({10.5f, 8.f, 40.f, 30.f}).view({1, 4}),
                      at::tensor({0.5f}),
                      at::tensor({int64_t{1}}),
                      {3, 4},
                      {}};
  if (masks) {
    at::Tensor map = at::zeros({1, 3, 4});
    map[0].narrow(0, 1, 2).narrow(1, 1, 2).fill_(1);
    instances.masks = {.probabilities = map, .stride = 1, .network_size = {3, 4}, .image_size = {3, 4}};
  }
  return {"a.png", instances};
}

ModelConfig config() {
  ModelConfig config;
  config.num_classes = 2;
  config.class_names = {"cat", "dog"};
  config.category_ids = {17, 18};
  return config;
}

TEST(ImageEntry, IsThatOfPython) {
  EXPECT_EQ(image_entry(config(), found(false), true).dump(),
            R"({"file":"a.png","width":4,"height":3,"detections":[{"class":"dog","label":1,"category_id":18,)"
            R"("score":0.5,"box":[10.5,8.0,40.0,30.0]}]})");
}

TEST(ImageEntry, HoldsMasksUnlessTheyAreLeftOut) {
  const auto with = image_entry(config(), found(true), true)["detections"][0];
  EXPECT_EQ(with["mask"].dump(), R"({"size":[3,4],"counts":"42102"})");
  EXPECT_EQ(with["area"], 4);
  EXPECT_EQ(image_entry(config(), found(true), false), image_entry(config(), found(false), true));
}

TEST(DetectionsDocument, NamesTheModelAndTheErrors) {
  auto images = nlohmann::ordered_json::array({image_entry(config(), found(false), true)});
  const auto document = detections_document("some/where/m.safetensors", images, {{"b.png", "empty"}});
  EXPECT_EQ(document["model"], "m.safetensors");
  EXPECT_EQ(document["images"], images);
  EXPECT_EQ(document["errors"].dump(), R"([{"file":"b.png","error":"empty"}])");
}

}  // namespace
}  // namespace instseg::apps
