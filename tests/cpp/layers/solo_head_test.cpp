// SPDX-License-Identifier: Apache-2.0
#include "layers/solo_head.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tensor.h>

#include <map>
#include <string>

#include "instseg/error.h"
#include "layers/solo_twin.h"

namespace instseg {
namespace {

using namespace solo_test;

std::shared_ptr<SoloHead> make_head(const std::string& kind) {
  at::manual_seed(2);
  auto head = make_solo_head(config_of(kind), kIn, kClasses, kPrior);
  spread(*head);
  return head;
}

/** Classified, nothing prepared. */
SoloForward classified(SoloHead& head, at::ScalarType dtype = at::kFloat) {
  SoloForward network;
  for (const auto& map : pyramid()) network.features.push_back(map.to(dtype));
  network.mask_features =
      at::randn({kImages, 32, kQuarter.height, kQuarter.width}).contiguous(at::MemoryFormat::ChannelsLast);
  head.classify(network);
  return network;
}

SoloForward prepared(SoloHead& head, at::ScalarType dtype = at::kFloat) {
  auto network = classified(head, dtype);
  for (size_t level = 0; level < network.levels.size(); ++level) head.prepare(network, level);
  return network;
}

using Maps = std::map<std::string, at::Tensor>;

Maps maps_of(SoloHead& head, const SoloForward& network) {
  const auto named = head.all_maps(network);
  return {named.begin(), named.end()};
}

/** P2..P6 -> what the heads read. */
std::vector<at::Tensor> levels_of(const std::vector<at::Tensor>& p) {
  return {resized(p[0], 16, 24), p[1], p[2], p[3], resized(p[4], 4, 6)};
}

/** All maps of a head, in the order of the papers: enlarge, then predict. */
Maps twin_maps(const std::string& kind, const Twin& twin, const std::vector<at::Tensor>& levels) {
  Maps maps;
  for (size_t l = 0; l < levels.size(); ++l) {
    const std::string level = std::to_string(l);
    const auto& f = levels[l];
    const int64_t s = config_of(kind).grids[l];
    if (kind == "solo") {
      maps["mask." + level] =
          twin.conv(doubled(twin.tower(placed(f, true, true), "mask_tower")), "mask_output." + level);
    } else if (kind == "solov2") {
      maps["kernel." + level] =
          twin.conv(twin.tower(resized(placed(f, true, true), s, s), "kernel_tower"), "kernel");
    } else {
      const bool light = kind == "decoupled_light";
      const auto x = twin.tower(placed(f, true, light), light ? "mask_tower" : "x_tower");
      const auto y = twin.tower(placed(f, light, true), light ? "mask_tower" : "y_tower");
      maps["x." + level] = twin.conv(doubled(x), "x_output." + level);
      maps["y." + level] = twin.conv(doubled(y), "y_output." + level);
    }
  }
  return maps;
}

/** Masks of `cells` of one image, made of the maps of all cells. */
at::Tensor masks_from(const Maps& maps, const SoloForward& network, int64_t s, size_t l, int64_t image,
                      const at::Tensor& cells, const ImageSize& size) {
  const std::string level = std::to_string(l);
  const auto probabilities = [&](const std::string& name) {
    const auto p = at::sigmoid(maps.at(name).narrow(0, image, 1));
    return (size.height == 0 ? p : resized(p, size.height, size.width))[0];
  };
  if (maps.contains("mask." + level)) return probabilities("mask." + level).index_select(0, cells);
  if (maps.contains("x." + level)) {
    const auto column = cells.remainder(s), row = cells.sub(column).div(s, "floor");
    return probabilities("x." + level).index_select(0, column) *
           probabilities("y." + level).index_select(0, row);
  }
  const auto kernels = maps.at("kernel." + level)[image].flatten(1).t().index_select(0, cells);
  const auto features = network.mask_features.narrow(0, image, 1);
  return at::sigmoid(at::conv2d(features, kernels.contiguous().view({-1, features.size(1), 1, 1})))[0];
}

class Heads : public ::testing::TestWithParam<std::string> {};

TEST_P(Heads, ClassLogitsEqualPlainCalls) {
  const c10::AutoGradMode no_grad(false);
  const auto head = make_head(GetParam());
  const auto network = classified(*head);
  const Twin twin(*head);
  const auto levels = levels_of(network.features);
  ASSERT_EQ(network.logits.size(), levels.size());
  for (size_t l = 0; l < levels.size(); ++l) {
    const int64_t s = config_of("").grids[l];
    testing::expect_near(network.levels[l], levels[l], 1e-6);
    EXPECT_TRUE(network.logits[l].sizes().equals({kImages, kClasses, s, s})) << l;
    EXPECT_TRUE(network.towers[l].empty()) << l;  // masks cost nothing yet
    testing::expect_near(network.logits[l],
                         twin.conv(twin.tower(resized(levels[l], s, s), "cls_tower"), "cls_logits"), 1e-5);
  }
}

TEST_P(Heads, MapsEqualPlainCalls) {
  const c10::AutoGradMode no_grad(false);
  const auto head = make_head(GetParam());
  const auto network = prepared(*head);
  const auto expected = twin_maps(GetParam(), Twin(*head), levels_of(network.features));
  const auto maps = maps_of(*head, network);
  ASSERT_EQ(maps.size(), expected.size());
  for (const auto& [name, map] : maps) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(expected.contains(name));
    testing::expect_near(map, expected.at(name), 1e-5);
  }
}

TEST_P(Heads, MasksAreThoseOfTheCells) {
  const c10::AutoGradMode no_grad(false);
  const auto head = make_head(GetParam());
  const auto network = prepared(*head);
  const auto maps = maps_of(*head, network);
  const auto cells = at::tensor({5, 0, 8, 2, 3}, at::kLong), rows = at::tensor({3, 0, 4, 3}, at::kLong);
  for (size_t l = 0; l < network.levels.size(); ++l) {
    for (const ImageSize& size : {ImageSize{}, kQuarter}) {
      SCOPED_TRACE(join(l, " ", size.height));
      const auto expected = masks_from(maps, network, config_of("").grids[l], l, 1, cells, size);
      EXPECT_GT(expected.std().item<double>(), 0.05);
      const auto masks = head->masks(network, l, 1, cells, size)(rows);
      EXPECT_EQ(masks.scalar_type(), at::kFloat);
      testing::expect_near(masks, expected.index_select(0, rows), 1e-5);
    }
  }
}

TEST_P(Heads, MasksHaveGradients) {
  const auto head = make_head(GetParam());
  const auto network = prepared(*head);
  at::Tensor sum = head->unused_zero(network);
  EXPECT_FALSE(sum.requires_grad());  // nothing is unused
  for (const auto& logits : network.logits) sum = sum + logits.square().sum();
  const auto cells = at::arange(9);  // touches every row and column of a 3 x 3 grid
  for (size_t l = 0; l < network.levels.size(); ++l) {
    sum = sum + head->masks(network, l, 0, cells, {})(at::arange(9)).square().sum();
  }
  sum.backward();
  for (const auto& item : head->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_GT(item.value().grad().abs().max().item<float>(), 0.F) << item.key();
  }
}

TEST_P(Heads, LoweredNetworkGivesTheSame) {
  const c10::AutoGradMode no_grad(false);
  const auto head = make_head(GetParam());
  const auto before = prepared(*head);
  const auto maps = maps_of(*head, before);
  head->lower(at::kFloat);
  const auto after = prepared(*head);
  for (size_t l = 0; l < before.logits.size(); ++l)
    testing::expect_near(after.logits[l], before.logits[l], 1e-4);
  for (const auto& [name, map] : maps_of(*head, after)) testing::expect_near(map, maps.at(name), 1e-4);
}

TEST_P(Heads, PredictionsAreFloatWhenLoweredToBfloat16) {
  const c10::AutoGradMode no_grad(false);
  const auto head = make_head(GetParam());
  const auto before = prepared(*head);
  const auto maps = maps_of(*head, before);
  head->lower(at::kBFloat16);
  const auto after = prepared(*head, at::kBFloat16);
  const auto expect_float = [](const at::Tensor& found, const at::Tensor& expected) {
    EXPECT_EQ(found.scalar_type(), at::kFloat);
    EXPECT_FALSE(found.to(at::kBFloat16).to(at::kFloat).equal(found));  // not rounded at the end
    testing::expect_near(found, expected, 5e-2);
  };
  for (size_t l = 0; l < before.logits.size(); ++l) expect_float(after.logits[l], before.logits[l]);
  for (const auto& [name, map] : maps_of(*head, after)) expect_float(map, maps.at(name));
  const auto masks = head->masks(after, 2, 0, at::arange(4), kQuarter)(at::arange(4));
  expect_float(masks, head->masks(before, 2, 0, at::arange(4), kQuarter)(at::arange(4)));
}

struct Autocast {
  Autocast() { at::autocast::set_autocast_enabled(at::kCPU, true); }
  ~Autocast() {
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
  }
};

TEST_P(Heads, PredictionsAreFloatUnderAutocast) {
  const c10::AutoGradMode no_grad(false);
  const auto head = make_head(GetParam());
  const auto before = prepared(*head);
  const auto cells = at::arange(9);
  for (size_t l = 0; l < before.levels.size(); ++l) {
    const auto expected = head->masks(before, l, 0, cells, kQuarter)(cells);
    const Autocast autocast;
    const auto after = prepared(*head);
    EXPECT_EQ(after.logits[l].scalar_type(), at::kFloat);
    const auto masks = head->masks(after, l, 0, cells, kQuarter)(cells);
    EXPECT_EQ(masks.scalar_type(), at::kFloat);
    testing::expect_near(masks, expected, 5e-2);
  }
}

TEST_P(Heads, UnusedZeroIsAttachedToWhatTheLevelsLeave) {
  for (const bool some : {false, true}) {
    const auto head = make_head(GetParam());
    auto network = classified(*head);
    if (some) head->prepare(network, 2);
    const auto zero = head->unused_zero(network);
    EXPECT_EQ(zero.item<float>(), 0.F);
    if (zero.requires_grad()) zero.backward();
    for (const auto& item : head->named_parameters()) {
      const std::string& name = item.key();
      const bool cls = name.starts_with("cls_");
      const bool output = name.find("_output.") != std::string::npos;
      const bool unused = !cls && (!some || (output && name.find("_output.2.") == std::string::npos));
      const auto& grad = item.value().grad();
      ASSERT_EQ(grad.defined(), unused) << name << ' ' << some;
      if (!unused) continue;
      EXPECT_EQ(grad.abs().max().item<float>(), 0.F) << name;
    }
  }
}

void add_tower(Shapes& expected, const std::string& name, int64_t in) {
  add_block(expected, name + ".0", in, kWidth);
  add_block(expected, name + ".1", kWidth, kWidth);
}

void add_plain(Shapes& expected, const std::string& name, int64_t out, int64_t kernel) {
  expected.emplace(name + ".weight", std::vector<int64_t>{out, kWidth, kernel, kernel});
  expected.emplace(name + ".bias", std::vector<int64_t>{out});
}

TEST_P(Heads, NamesAndShapesOfParameters) {
  const std::string kind = GetParam();
  Shapes expected;
  add_tower(expected, "cls_tower", kIn);
  add_plain(expected, "cls_logits", kClasses, 3);
  if (kind == "solo" || kind == "decoupled_light") add_tower(expected, "mask_tower", kIn + 2);
  if (kind == "decoupled") add_tower(expected, "x_tower", kIn + 1), add_tower(expected, "y_tower", kIn + 1);
  if (kind == "solov2") {
    add_tower(expected, "kernel_tower", kIn + 2);
    add_plain(expected, "kernel", 32, 3);
  }
  const auto grids = config_of(kind).grids;
  for (size_t l = 0; l < grids.size(); ++l) {
    const std::string level = std::to_string(l);
    if (kind == "solo") add_plain(expected, "mask_output." + level, grids[l] * grids[l], 1);
    if (!kind.starts_with("decoupled")) continue;
    add_plain(expected, "x_output." + level, grids[l], 3);
    add_plain(expected, "y_output." + level, grids[l], 3);
  }
  EXPECT_EQ(shapes(*make_head(kind)), expected);
}

TEST_P(Heads, InitialValues) {
  at::manual_seed(3);
  const auto head = make_solo_head(config_of(GetParam()), kIn, kClasses, kPrior);
  for (const auto& item : head->named_parameters()) {
    const std::string& name = item.key();
    const auto& value = item.value();
    SCOPED_TRACE(name);
    double expected = name.ends_with(".norm.weight") ? 1 : 0;
    if (name == "cls_logits.bias" || (name.ends_with(".bias") && name.find("_output.") != std::string::npos))
      expected = -4.59512;  // a probability of 0.01
    if (value.dim() == 1) {
      EXPECT_NEAR(value.min().item<double>(), expected, 1e-5);
      EXPECT_NEAR(value.max().item<double>(), expected, 1e-5);
    } else {
      EXPECT_NEAR(value.std().item<double>(), 0.01, 1e-3);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Heads, ::testing::Values("solo", "decoupled", "decoupled_light", "solov2"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace instseg
