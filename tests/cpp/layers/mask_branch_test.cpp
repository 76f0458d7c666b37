// SPDX-License-Identifier: Apache-2.0
#include "layers/mask_branch.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/upsample_bilinear2d.h>

#include <cmath>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "instseg/ops/aligned_bilinear.h"
#include "networks.h"

namespace instseg {
namespace {

constexpr int64_t kIn = 8, kWidth = 16;
const std::vector<int64_t> kTapChannels = {4, 6, 10, 12};

/** C2..C5 and P3..P5 of two images of 64 x 96. */
struct Inputs {
  std::vector<at::Tensor> taps, features;

  Inputs() {
    at::manual_seed(1);
    for (int64_t i = 0; i < 4; ++i) taps.push_back(map(kTapChannels[static_cast<size_t>(i)], 4 << i));
    for (int64_t i = 0; i < 3; ++i) features.push_back(map(kIn, 8 << i));
  }

  static at::Tensor map(int64_t channels, int64_t stride) {
    return at::randn({2, channels, 64 / stride, 96 / stride}).contiguous(at::MemoryFormat::ChannelsLast);
  }
};

CondInstConfig condinst(const std::string& norm, bool semantic = false) {
  return {.mask_channels = 5,
          .branch_channels = kWidth,
          .branch_convs = 2,
          .branch_norm = norm,
          .semantic = semantic};
}

BlendMaskConfig blendmask(const std::string& bottom, const std::string& norm, bool semantic = false) {
  return {.bottom = bottom,
          .bases = 3,
          .branch_channels = kWidth,
          .branch_convs = 2,
          .branch_norm = norm,
          .semantic = semantic};
}

struct Case {
  std::string kind, norm;

  std::shared_ptr<MaskBranch> make(bool semantic = false) const {
    at::manual_seed(2);
    const auto branch = kind == "condinst"
                            ? make_mask_branch(condinst(norm, semantic), kIn, 7)
                            : make_basis_module(blendmask(kind, norm, semantic), kIn, kTapChannels, 7);
    testing::randomize(*branch);
    return branch;
  }
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.kind << ' ' << c.norm; }

class Branches : public ::testing::TestWithParam<Case> {};

TEST_P(Branches, ShapesAndLoweredNetwork) {
  const c10::AutoGradMode no_grad(false);
  const Inputs inputs;
  const auto branch = GetParam().make();
  branch->eval();
  const auto maps = branch->forward(inputs.taps, inputs.features);
  if (GetParam().kind == "condinst") {
    EXPECT_TRUE(maps.sizes().equals({2, 5, 8, 12})) << maps.sizes();  // stride 8
  } else {
    EXPECT_TRUE(maps.sizes().equals({2, 3, 16, 24})) << maps.sizes();  // stride 4
  }
  branch->lower(at::kFloat);
  testing::expect_near(branch->forward(inputs.taps, inputs.features), maps, 1e-4);
}

TEST_P(Branches, OutputIsFloatWhenLoweredToBfloat16) {
  const c10::AutoGradMode no_grad(false);
  Inputs inputs;
  const auto branch = GetParam().make();
  branch->eval();
  const auto maps = branch->forward(inputs.taps, inputs.features);
  branch->lower(at::kBFloat16);
  for (auto* list : {&inputs.taps, &inputs.features}) {
    for (auto& map : *list) map = map.to(at::kBFloat16);
  }
  const auto lowered = branch->forward(inputs.taps, inputs.features);
  EXPECT_EQ(lowered.scalar_type(), at::kFloat);
  EXPECT_FALSE(lowered.to(at::kBFloat16).to(at::kFloat).equal(lowered));  // not rounded at the end
  testing::expect_near(lowered, maps, 5e-2);
}

TEST_P(Branches, EveryParameterIsTrained) {
  const Inputs inputs;
  const auto branch = GetParam().make(/*semantic=*/true);
  const auto loss = branch->forward(inputs.taps, inputs.features).square().sum() +
                    branch->semantic(inputs.features[0]).square().sum();
  loss.backward();
  for (const auto& item : branch->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_GT(item.value().grad().abs().max().item<float>(), 0.F) << item.key();
  }
}

INSTANTIATE_TEST_SUITE_P(All, Branches,
                         ::testing::Values(Case{"condinst", "bn"}, Case{"condinst", "none"},
                                           Case{"protonet", "bn"}, Case{"protonet", "none"},
                                           Case{"deeplab_pyramid", "bn"}, Case{"deeplab_pyramid", "none"},
                                           Case{"deeplab_backbone", "bn"}, Case{"deeplab_backbone", "none"}),
                         [](const auto& info) { return info.param.kind + "_" + info.param.norm; });

/** The branches without norm, written with plain ATen calls. */
class Twin {
 public:
  explicit Twin(const MaskBranch& branch) : values_(branch.named_parameters()) {}

  at::Tensor plain(const at::Tensor& x, const std::string& name, int64_t dilation = 1) const {
    const auto weight = values_[name + ".weight"];
    return at::conv2d(x, weight, values_[name + ".bias"], 1, dilation * (weight.size(2) / 2), dilation);
  }
  at::Tensor block(const at::Tensor& x, const std::string& name, int64_t dilation = 1) const {
    return at::relu(plain(x, name, dilation));
  }
  static at::Tensor bilinear(const at::Tensor& x, int64_t height, int64_t width) {
    return at::upsample_bilinear2d(x, at::IntArrayRef({height, width}), false);
  }

  at::Tensor condinst(const Inputs& in) const {
    auto x = block(in.features[0], "refine.0") + aligned_bilinear(block(in.features[1], "refine.1"), 2) +
             aligned_bilinear(block(in.features[2], "refine.2"), 4);
    for (const char* name : {"tower.0", "tower.1"}) x = block(x, name);
    return plain(x, "output");
  }

  at::Tensor protonet(const Inputs& in) const {
    auto x = block(in.features[0], "refine.0") + bilinear(block(in.features[1], "refine.1"), 8, 12) +
             bilinear(block(in.features[2], "refine.2"), 8, 12);
    for (const char* name : {"tower.0", "tower.1"}) x = block(x, name);
    return plain(block(bilinear(x, 16, 24), "tower.2"), "output");
  }

  at::Tensor deeplab(const at::Tensor& low, const at::Tensor& high) const {
    const auto pooled = block(high.mean({2, 3}, true), "pool").expand({2, kWidth, 2, 3});
    const auto context = block(at::cat({block(high, "aspp.0"), block(high, "aspp.1", 6),
                                        block(high, "aspp.2", 12), block(high, "aspp.3", 18), pooled},
                                       1),
                               "project");
    auto x = at::cat({bilinear(context, 8, 12), block(low, "low")}, 1);
    for (const char* name : {"decoder.0", "decoder.1"}) x = block(x, name);
    return plain(bilinear(x, 16, 24), "output");
  }

 private:
  torch::OrderedDict<std::string, at::Tensor> values_;
};

TEST(MaskBranch, EqualsPlainCalls) {
  const c10::AutoGradMode no_grad(false);
  const Inputs in;
  const auto branch = Case{"condinst", "none"}.make();
  testing::expect_near(branch->forward(in.taps, in.features), Twin(*branch).condinst(in), 1e-5);
}

TEST(BasisModule, EqualsPlainCalls) {
  const c10::AutoGradMode no_grad(false);
  const Inputs in;
  const auto protonet = Case{"protonet", "none"}.make(), pyramid = Case{"deeplab_pyramid", "none"}.make(),
             backbone = Case{"deeplab_backbone", "none"}.make();
  testing::expect_near(protonet->forward(in.taps, in.features), Twin(*protonet).protonet(in), 1e-5);
  testing::expect_near(pyramid->forward(in.taps, in.features),
                       Twin(*pyramid).deeplab(in.features[0], in.features[2]), 1e-5);
  testing::expect_near(backbone->forward(in.taps, in.features),
                       Twin(*backbone).deeplab(in.taps[1], in.taps[3]), 1e-5);
}

using Shapes = std::set<std::pair<std::string, std::vector<int64_t>>>;

Shapes shapes(const MaskBranch& branch) {
  Shapes found;
  for (const auto& item : branch.named_parameters()) found.emplace(item.key(), item.value().sizes().vec());
  return found;
}

/** weight and the norm's parameters of convolutions `name`. */
void add_block(Shapes& expected, const std::string& name, int64_t in, int64_t out, int64_t kernel = 3) {
  expected.emplace(name + ".weight", std::vector<int64_t>{out, in, kernel, kernel});
  for (const char* part : {".norm.weight", ".norm.bias"}) {
    expected.emplace(name + part, std::vector<int64_t>{out});
  }
}

void add_plain(Shapes& expected, const std::string& name, int64_t in, int64_t out) {
  expected.emplace(name + ".weight", std::vector<int64_t>{out, in, 1, 1});
  expected.emplace(name + ".bias", std::vector<int64_t>{out});
}

Shapes common(int64_t out, int64_t classes) {
  Shapes expected;
  add_plain(expected, "output", kWidth, out);
  add_block(expected, "seg_head.0", kIn, kWidth);
  add_block(expected, "seg_head.1", kWidth, kWidth);
  add_plain(expected, "seg_logits", kWidth, classes);
  return expected;
}

TEST(MaskBranch, NamesAndShapesOfParameters) {
  auto expected = common(5, 7);
  for (const char* i : {"0", "1", "2"}) add_block(expected, std::string("refine.") + i, kIn, kWidth);
  for (const char* i : {"0", "1"}) add_block(expected, std::string("tower.") + i, kWidth, kWidth);
  EXPECT_EQ(shapes(*Case{"condinst", "bn"}.make(true)), expected);
  const auto buffers = Case{"condinst", "bn"}.make()->named_buffers();
  EXPECT_EQ(buffers.size(), 5U * 3U);
  EXPECT_TRUE(buffers.contains("tower.1.norm.running_var"));
}

TEST(BasisModule, NamesAndShapesOfParameters) {
  auto expected = common(3, 8);  // classes and background
  auto protonet = expected;
  for (const char* i : {"0", "1", "2"}) {
    add_block(protonet, std::string("refine.") + i, kIn, kWidth);
    add_block(protonet, std::string("tower.") + i, kWidth, kWidth);
  }
  EXPECT_EQ(shapes(*Case{"protonet", "bn"}.make(true)), protonet);
  for (const auto& [kind, low, high] :
       {std::tuple{"deeplab_pyramid", kIn, kIn}, {"deeplab_backbone", kTapChannels[1], kTapChannels[3]}}) {
    auto deeplab = expected;
    add_block(deeplab, "low", low, 48, 1);
    add_block(deeplab, "aspp.0", high, kWidth, 1);
    for (const char* i : {"1", "2", "3"}) add_block(deeplab, std::string("aspp.") + i, high, kWidth);
    add_plain(deeplab, "pool", high, kWidth);
    add_block(deeplab, "project", 5 * kWidth, kWidth, 1);
    add_block(deeplab, "decoder.0", kWidth + 48, kWidth);
    add_block(deeplab, "decoder.1", kWidth, kWidth);
    EXPECT_EQ(shapes(*Case{kind, "bn"}.make(true)), deeplab) << kind;
  }
}

TEST(MaskBranch, WithoutMaskChannelsPredictsOneMap) {
  auto config = condinst("bn");
  config.mask_channels = 0;
  EXPECT_EQ(make_mask_branch(config, kIn, 7)->named_parameters()["output.bias"].size(0), 1);
}

TEST(MaskBranch, SemanticHead) {
  const Inputs in;
  const auto branch = make_mask_branch(condinst("bn", true), kIn, 7);
  EXPECT_TRUE(branch->semantic(in.features[0]).sizes().equals({2, 7, 8, 12}));
  const auto prior = branch->named_parameters()["seg_logits.bias"];
  EXPECT_NEAR(prior.min().item<double>(), -4.59512, 1e-5);
  EXPECT_NEAR(prior.max().item<double>(), -4.59512, 1e-5);
  const auto bases = make_basis_module(blendmask("protonet", "bn", true), kIn, kTapChannels, 7);
  EXPECT_TRUE(bases->semantic(in.features[0]).sizes().equals({2, 8, 8, 12}));
  EXPECT_LE(bases->named_parameters()["seg_logits.bias"].abs().max().item<double>(), 0.25);  // 1 / sqrt(16)
  EXPECT_FALSE(make_mask_branch(condinst("bn"), kIn, 7)->named_parameters().contains("seg_logits.bias"));
}

TEST(MaskBranch, BlocksAreInitialisedUniformly) {
  const auto branch = make_mask_branch(condinst("bn"), kIn, 7);
  const auto weight = branch->named_parameters()["tower.0.weight"];
  const double bound = std::sqrt(3.0 / (9 * kWidth));
  EXPECT_LE(weight.abs().max().item<double>(), bound);
  EXPECT_GT(weight.abs().max().item<double>(), 0.98 * bound);
  EXPECT_NEAR(weight.std().item<double>(), bound / std::sqrt(3.0), 0.05 * bound);
}

TEST(MaskBranch, LoweredGroupNorm) {
  const c10::AutoGradMode no_grad(false);
  const Inputs in;
  auto config = condinst("gn");
  config.branch_channels = 32;
  const auto branch = make_mask_branch(config, kIn, 7);
  for (auto& p : branch->parameters()) p.add_(at::randn_like(p), 0.1);
  const auto maps = branch->forward(in.taps, in.features);
  branch->lower(at::kFloat);
  testing::expect_near(branch->forward(in.taps, in.features), maps, 1e-4);
}

}  // namespace
}  // namespace instseg
