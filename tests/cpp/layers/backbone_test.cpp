// SPDX-License-Identifier: Apache-2.0
#include "layers/backbone.h"

#include <ATen/ops/randn.h>

#include "instseg/error.h"
#include "layers/conv_unit.h"
#include "networks.h"

namespace instseg {
namespace {

struct Case {
  const char* name;
  std::vector<int64_t> channels;
  int64_t parameters;
};

class BackboneShapes : public ::testing::TestWithParam<Case> {};

TEST_P(BackboneShapes, TapsHaveStrides4To32) {
  const c10::AutoGradMode no_grad(false);
  const auto backbone = make_backbone({.name = GetParam().name, .norm = "bn", .freeze = 0});
  EXPECT_EQ(backbone->channels(), GetParam().channels);
  backbone->eval();
  const auto taps = backbone->forward(at::randn({1, 3, 64, 96}));
  ASSERT_EQ(taps.size(), 4u);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(taps[i].sizes(), (std::vector<int64_t>{1, GetParam().channels[i], 16 >> i, 24 >> i}));
  }
  int64_t parameters = 0;
  for (const auto& p : backbone->parameters()) parameters += p.numel();
  EXPECT_EQ(parameters, GetParam().parameters);
}

// Parameters of the published architectures less the classifier (and the 1x1 head of EfficientNet).
INSTANTIATE_TEST_SUITE_P(All, BackboneShapes,
                         ::testing::Values(Case{"resnet18", {64, 128, 256, 512}, 11176512},
                                           Case{"resnet34", {64, 128, 256, 512}, 21284672},
                                           Case{"resnet50", {256, 512, 1024, 2048}, 23508032},
                                           Case{"resnet101", {256, 512, 1024, 2048}, 42500160},
                                           Case{"efficientnet_lite0", {24, 40, 112, 320}, 2958848},
                                           Case{"efficientnet_lite1", {24, 40, 112, 320}, 3723520},
                                           Case{"efficientnet_lite2", {24, 48, 120, 352}, 4357952}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Backbone, StridePlacementChangesTheResultNotTheShape) {
  const c10::AutoGradMode no_grad(false);
  at::manual_seed(1);
  const auto first = make_backbone({.name = "resnet50", .stride_in_1x1 = true});
  at::manual_seed(1);
  const auto second = make_backbone({.name = "resnet50", .stride_in_1x1 = false});
  const auto x = at::randn({1, 3, 64, 64});
  const auto a = first->forward(x), b = second->forward(x);
  EXPECT_TRUE(a[0].equal(b[0]));  // res2 has no stride
  EXPECT_EQ(a[1].sizes(), b[1].sizes());
  EXPECT_FALSE(a[1].allclose(b[1]));
}

TEST(Backbone, FrozenStagesHaveNoGradientsAndFixedNorms) {
  const auto backbone = make_backbone({.name = "resnet18", .norm = "bn", .freeze = 2});
  for (const auto& item : backbone->named_parameters()) {
    const bool early = item.key().starts_with("stem") || item.key().starts_with("res2");
    EXPECT_EQ(item.value().requires_grad(), !early) << item.key();
    if (early) {
      EXPECT_EQ(item.key().find(".norm."), std::string::npos) << item.key();
    }
  }
  EXPECT_TRUE(backbone->named_buffers().contains("stem.norm.weight"));
  EXPECT_FALSE(backbone->named_buffers().contains("res3.0.conv1.norm.weight"));
}

TEST(Backbone, LoweredTapsEqualTheOriginals) {
  const c10::AutoGradMode no_grad(false);
  for (const char* name : {"resnet18", "efficientnet_lite0"}) {
    at::manual_seed(2);
    const auto backbone = make_backbone({.name = name, .norm = "bn", .freeze = 0, .stride_in_1x1 = false});
    testing::randomize(*backbone);
    backbone->eval();
    const auto x = at::randn({1, 3, 64, 96}).contiguous(at::MemoryFormat::ChannelsLast);
    const auto expected = backbone->forward(x);
    lower_units(*backbone, at::kFloat);
    const auto taps = backbone->forward(x);
    for (size_t i = 0; i < taps.size(); ++i) testing::expect_near(taps[i], expected[i], 1e-4);
  }
}

TEST(Backbone, UnknownNamesAreRefused) {
  EXPECT_THROW(make_backbone({.name = "resnet12"}), ValueError);
  EXPECT_THROW(make_backbone({.name = "vgg16"}), ValueError);
}

}  // namespace
}  // namespace instseg
