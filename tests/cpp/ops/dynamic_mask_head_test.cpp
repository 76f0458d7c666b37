// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/dynamic_mask_head.h"

#include <ATen/Parallel.h>

#include <map>
#include <string>
#include <vector>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;

// The arguments of one call. Values have few bits: sums are exact in float32 where the network is not deep,
// so that no activation falls on the other side of zero than in float64.
struct Arguments {
  at::Tensor features, parameters, images, locations, scales;
};

at::Tensor coarse(at::IntArrayRef sizes) { return at::randint(-4, 5, sizes, at::kFloat) / 4; }

Arguments random_arguments(int64_t channels, const DynamicHead& head, const std::vector<int64_t>& images,
                           at::IntArrayRef map, int64_t batch = 3) {
  const auto n = static_cast<int64_t>(images.size());
  return {coarse({batch, channels, map[0], map[1]}), coarse({n, head.parameters(channels)}),
          at::tensor(images, at::kLong), at::randint(0, 400, {n, 2}, at::kFloat),
          at::pow(2.0, at::randint(6, 10, {n}, at::kFloat))};
}

at::Tensor plain_coordinates(const Arguments& a, const DynamicHead& head) {
  const int64_t height = a.features.size(2), width = a.features.size(3), n = a.images.size(0);
  const auto axis = [&](int64_t cells) {
    return at::arange(cells, at::kDouble) * head.stride + head.stride / 2;
  };
  const at::Tensor x = axis(width).expand({n, height, width});
  const at::Tensor y = axis(height).unsqueeze(1).expand({n, height, width});
  if (head.coordinates == "absolute") {
    return at::stack({2 * x / (width * head.stride) - 1, 2 * y / (height * head.stride) - 1}, 1);
  }
  const at::Tensor locations = a.locations.to(at::kDouble).view({n, 2, 1, 1});
  return (locations - at::stack({x, y}, 1)) / a.scales.to(at::kDouble).view({n, 1, 1, 1});
}

// Instance by instance as batched matrix products, in float64, with everything materialised.
at::Tensor plain_head(const Arguments& a, const at::Tensor& features, const at::Tensor& parameters,
                      const DynamicHead& head) {
  const int64_t n = a.images.size(0), height = a.features.size(2), width = a.features.size(3);
  at::Tensor x = features.index_select(0, a.images);
  if (head.coordinates != "none") x = at::cat({plain_coordinates(a, head), x}, 1);
  x = x.flatten(2);
  std::vector<at::Tensor> weights, biases;
  int64_t start = 0;
  for (int64_t layer = 0, in = x.size(1); layer < head.depth; ++layer, in = head.width) {
    const int64_t out = layer == head.depth - 1 ? 1 : head.width;
    weights.push_back(parameters.narrow(1, start, out * in).reshape({n, out, in}));
    start += out * in;
  }
  for (int64_t layer = 0; layer < head.depth; ++layer) {
    const int64_t out = layer == head.depth - 1 ? 1 : head.width;
    biases.push_back(parameters.narrow(1, start, out).unsqueeze(2));
    start += out;
  }
  for (int64_t layer = 0; layer < head.depth; ++layer) {
    x = at::matmul(weights[layer], x) + biases[layer];
    if (layer < head.depth - 1) x = x.relu();
  }
  return x.view({n, height, width});
}

struct Results {
  at::Tensor logits, features, parameters;  // logits and both gradients
};

class DynamicMaskHeadTest : public test::DeviceTest {
 protected:
  at::Tensor run(const Arguments& a, const at::Tensor& features, const at::Tensor& parameters,
                 const DynamicHead& head) const {
    return dynamic_mask_head(features, parameters, here(a.images), here(a.locations), here(a.scales), head);
  }

  Results ours(const Arguments& a, const DynamicHead& head, const at::Tensor& weight) const {
    const at::Tensor features = here(a.features).detach().requires_grad_();
    const at::Tensor parameters = here(a.parameters).detach().requires_grad_();
    const at::Tensor logits = run(a, features, parameters, head);
    (logits * here(weight)).sum().backward();
    return {logits, features.grad(), parameters.grad()};
  }

  static Results twin(const Arguments& a, const DynamicHead& head, const at::Tensor& weight) {
    const at::Tensor features = a.features.to(at::kDouble).requires_grad_();
    const at::Tensor parameters = a.parameters.to(at::kDouble).requires_grad_();
    const at::Tensor logits = plain_head(a, features, parameters, head);
    (logits * weight).sum().backward();
    return {logits, features.grad(), parameters.grad()};
  }

  static void expect_close(const at::Tensor& got, const at::Tensor& expected, double rounding,
                           const std::string& what) {
    const double scale = expected.numel() ? std::max(1.0, expected.abs().max().item<double>()) : 1;
    EXPECT_LE(difference(got, expected), rounding * scale) << what;
  }

  void expect_twin(const Arguments& a, const DynamicHead& head, const std::string& what = "") const {
    const std::string name = join(what, " depth ", head.depth, " width ", head.width, " ", head.coordinates,
                                  " channels ", a.features.size(1));
    const at::Tensor weight = coarse({a.images.size(0), a.features.size(2), a.features.size(3)});
    const Results mine = ours(a, head, weight), exact = twin(a, head, weight);
    EXPECT_EQ(mine.logits.scalar_type(), at::kFloat);
    EXPECT_EQ(mine.features.scalar_type(), a.features.scalar_type());
    expect_close(mine.logits, exact.logits, 2e-6, "logits," + name);
    expect_close(mine.features, exact.features, a.features.scalar_type() == at::kFloat ? 2e-6 : 4e-3,
                 "features," + name);
    expect_close(mine.parameters, exact.parameters, 2e-6, "parameters," + name);
  }
};
INSTSEG_ON_DEVICES(DynamicMaskHeadTest);

const std::vector<int64_t> kImages = {2, 0, 2, 2, 0};  // unsorted; image 1 has none

TEST(DynamicHeadTest, CountsParameters) {
  const auto count = [](int64_t depth, int64_t width, int64_t channels, const char* coordinates) {
    return DynamicHead{depth, width, coordinates}.parameters(channels);
  };
  for (const auto& [depth, expected] : std::map<int64_t, int64_t>{{1, 11}, {2, 97}, {3, 169}, {4, 241}}) {
    EXPECT_EQ(count(depth, 8, 8, "relative"), expected);
  }
  for (const auto& [width, expected] : std::map<int64_t, int64_t>{{2, 31}, {4, 69}, {8, 169}, {16, 465}}) {
    EXPECT_EQ(count(3, width, 8, "relative"), expected);
  }
  EXPECT_EQ(count(3, 8, 8, "none"), 153);
  EXPECT_EQ(count(3, 8, 0, "relative"), 105);
  EXPECT_EQ(count(3, 8, 8, "absolute"), 169);
  EXPECT_EQ(count(3, 8, 16, "relative"), 233);
}

TEST_P(DynamicMaskHeadTest, MatchesTwinForEveryForm) {
  for (const char* coordinates : {"relative", "absolute", "none"}) {
    // Absolute positions are exact for powers of two.
    const std::vector<int64_t> map =
        coordinates == std::string("absolute") ? std::vector<int64_t>{16, 32} : std::vector<int64_t>{9, 37};
    for (const int64_t depth : {1, 2, 3, 4}) {
      for (const int64_t width : {1, 2, 4, 5, 8, 13, 16}) {
        const DynamicHead head{depth, width, coordinates};
        expect_twin(random_arguments(8, head, kImages, map), head);
      }
    }
  }
}

TEST_P(DynamicMaskHeadTest, MatchesTwinForEveryNumberOfChannels) {
  for (const int64_t channels : {0, 1, 2, 3, 7, 16, 32}) {
    for (const int64_t depth : {1, 3}) {
      const DynamicHead head{depth};
      expect_twin(random_arguments(channels, head, kImages, {5, 11}), head);
    }
  }
}

// The largest head: in float32 its deep sums are rounded. A twin in float32 on the same values is as far
// away.
TEST_P(DynamicMaskHeadTest, TakesTheLargestHead) {
  const DynamicHead head{8, 32};
  Arguments a = random_arguments(32, head, kImages, {6, 25});
  a.parameters = a.parameters / 8;
  const at::Tensor weight = coarse({5, 6, 25});
  const Results mine = ours(a, head, weight), exact = twin(a, head, weight);
  expect_close(mine.logits, exact.logits, 1e-5, "logits");
  EXPECT_LE(difference(mine.parameters, exact.parameters) / exact.parameters.abs().max().item<double>(),
            1e-4);
  EXPECT_LE(difference(mine.features, exact.features) / exact.features.abs().max().item<double>(), 1e-4);
}

TEST_P(DynamicMaskHeadTest, AddsUpManyPixels) {
  const DynamicHead head;
  expect_twin(random_arguments(8, head, kImages, {67, 70}), head, "several spans,");
  for (const std::vector<int64_t>& map :
       {std::vector<int64_t>{1, 1}, {1, 15}, {16, 16}, {1, 257}, {32, 32}, {25, 41}}) {
    expect_twin(random_arguments(8, head, kImages, map), head, join("map ", at::IntArrayRef(map)));
  }
}

TEST_P(DynamicMaskHeadTest, TakesOddStrides) {
  const DynamicHead head{3, 8, "relative", 5};
  expect_twin(random_arguments(4, head, kImages, {7, 9}), head, "stride 5");
}

TEST_P(DynamicMaskHeadTest, TakesHalfPrecisionFeatures) {
  const DynamicHead head;
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    Arguments a = random_arguments(8, head, kImages, {9, 37});
    a.features = a.features.to(type);
    expect_twin(a, head, "half");
  }
}

TEST_P(DynamicMaskHeadTest, TakesAnyLayout) {
  const DynamicHead head;
  Arguments a = random_arguments(8, head, kImages, {9, 37});
  a.features = a.features.to(at::MemoryFormat::ChannelsLast);
  expect_twin(a, head, "channels last");
  a.features = coarse({37, 8, 9, 3}).permute({3, 1, 2, 0});
  a.parameters = coarse({169, 5}).t();
  a.locations = at::randint(0, 400, {2, 5}, at::kFloat).t();
  a.scales = at::full({1}, 64.f).expand({5});
  a.images = at::tensor({2, 9, 0, 9, 2, 9, 2, 9, 0, 9}, at::kLong).slice(0, 0, 10, 2);
  const at::Tensor weight = coarse({9, 5, 37}).transpose(0, 1);  // a strided gradient
  const Results mine = ours(a, head, weight), exact = twin(a, head, weight);
  expect_close(mine.logits, exact.logits, 2e-6, "logits");
  expect_close(mine.features, exact.features, 2e-6, "features");
  expect_close(mine.parameters, exact.parameters, 2e-6, "parameters");
}

TEST_P(DynamicMaskHeadTest, GradientMatchesNumericGradient) {
  const DynamicHead head{3, 3};
  Arguments a = random_arguments(2, head, {1, 0}, {3, 4}, 2);
  a.features = at::randn(a.features.sizes());
  a.parameters = at::randn(a.parameters.sizes());
  const Results mine = ours(a, head, at::ones({2, 3, 4}));
  const at::Tensor features = a.features.to(at::kDouble), parameters = a.parameters.to(at::kDouble);
  const at::Tensor by_features = test::numeric_gradient(
      [&](const at::Tensor& x) { return plain_head(a, x, parameters, head).sum(); }, features);
  const at::Tensor by_parameters = test::numeric_gradient(
      [&](const at::Tensor& x) { return plain_head(a, features, x, head).sum(); }, parameters);
  expect_close(mine.features, by_features, 2e-6, "features");
  expect_close(mine.parameters, by_parameters, 2e-6, "parameters");
}

TEST_P(DynamicMaskHeadTest, ImagesWithoutInstancesGetNoGradient) {
  const DynamicHead head;
  const Arguments a = random_arguments(8, head, kImages, {9, 37});
  const Results mine = ours(a, head, at::ones({5, 9, 37}));
  EXPECT_EQ(mine.features[1].abs().max().item<float>(), 0.f);
  EXPECT_GT(mine.features[0].abs().max().item<float>(), 0.f);
}

TEST_P(DynamicMaskHeadTest, ComputesWantedGradientsOnly) {
  const DynamicHead head;
  const Arguments a = random_arguments(8, head, kImages, {9, 37});
  const Results both = ours(a, head, at::ones({5, 9, 37}));
  const at::Tensor features = here(a.features).detach().requires_grad_();
  run(a, features, here(a.parameters), head).sum().backward();
  EXPECT_TRUE(test::same(features.grad(), both.features));
  const at::Tensor parameters = here(a.parameters).detach().requires_grad_();
  run(a, here(a.features), parameters, head).sum().backward();
  EXPECT_TRUE(test::same(parameters.grad(), both.parameters));
  EXPECT_FALSE(run(a, here(a.features), here(a.parameters), head).requires_grad());
}

TEST_P(DynamicMaskHeadTest, NoInstances) {
  const DynamicHead head;
  for (const int64_t batch : {2, 0}) {
    const Arguments a = random_arguments(8, head, {}, {3, 4}, batch);
    const Results mine = ours(a, head, at::empty({0, 3, 4}));
    EXPECT_EQ(mine.logits.sizes(), at::IntArrayRef({0, 3, 4}));
    EXPECT_TRUE(test::same(mine.features, at::zeros({batch, 8, 3, 4})));
    EXPECT_EQ(mine.parameters.sizes(), at::IntArrayRef({0, 169}));
  }
}

TEST_P(DynamicMaskHeadTest, NanReachesTheLogits) {
  const DynamicHead head;
  Arguments a = random_arguments(8, head, {0, 1}, {3, 4}, 2);
  a.features[0] = NAN;
  const at::Tensor logits = run(a, here(a.features), here(a.parameters), head);
  EXPECT_TRUE(logits[0].isnan().all().item<bool>());
  EXPECT_FALSE(logits[1].isnan().any().item<bool>());
}

TEST_P(DynamicMaskHeadTest, RejectsBadInput) {
  const Arguments a = random_arguments(8, {}, {0, 1}, {3, 4}, 2);
  const auto call = [&](const Arguments& b, const DynamicHead& head = {}) {
    dynamic_mask_head(here(b.features), here(b.parameters), here(b.images), here(b.locations), here(b.scales),
                      head);
  };
  const auto with = [&](at::Tensor Arguments::* field, const at::Tensor& value) {
    Arguments changed = a;
    changed.*field = value;
    return changed;
  };
  const auto rejects = [&](const Arguments& b, const std::string& text) {
    expect_error<ValueError>([&] { call(b); }, text);
  };
  rejects(with(&Arguments::features, at::zeros({8, 3, 4})), "features have shape [8, 3, 4]");
  rejects(with(&Arguments::features, at::zeros({2, 8, 0, 4})), "expected [B, C, H, W]");
  rejects(with(&Arguments::features, at::zeros({2, 33, 3, 4})), "channels of the features is 33; use 0..32");
  rejects(with(&Arguments::parameters, at::zeros({2, 168})),
          "parameters has shape [2, 168]; expected [2, 169]");
  rejects(with(&Arguments::parameters, at::zeros({169})), "parameters have shape [169]");
  rejects(with(&Arguments::locations, at::zeros({2, 3})), "locations has shape [2, 3]; expected [2, 2]");
  rejects(with(&Arguments::scales, at::zeros({3})), "scales has shape [3]");
  rejects(with(&Arguments::images, at::zeros({1}, at::kLong)), "images has shape [1]");
  const auto mistyped = [&](const Arguments& b, const std::string& text) {
    expect_error<TypeError>([&] { call(b); }, text);
  };
  mistyped(with(&Arguments::features, a.features.to(at::kDouble)), "features is Double");
  mistyped(with(&Arguments::parameters, a.parameters.to(at::kHalf)), "parameters is Half");
  mistyped(with(&Arguments::locations, a.locations.to(at::kDouble)), "locations is Double");
  mistyped(with(&Arguments::images, a.images.to(at::kInt)), "images is Int");
  const auto refuses = [&](const DynamicHead& head, const std::string& text) {
    expect_error<ValueError>([&] { call(a, head); }, text);
  };
  refuses({0}, "depth is 0; use 1..8");
  refuses({9}, "depth is 9; use 1..8");
  refuses({3, 33}, "width is 33; use 1..32");
  refuses({3, 8, "polar"}, "coordinates 'polar'");
  refuses({3, 8, "relative", 0}, "stride is 0");
  expect_error<ValueError>([] { DynamicHead{3, 8, "none"}.parameters(0); }, "leave no input");
}

TEST(DynamicMaskHeadCpuTest, RefusesUnknownImages) {
  const Arguments a = random_arguments(8, {}, {0, 1}, {3, 4}, 2);
  for (const int64_t image : {-1, 2}) {
    const at::Tensor images = at::tensor({int64_t{0}, image}, at::kLong);
    expect_error<ValueError>(
        [&] { dynamic_mask_head(a.features, a.parameters, images, a.locations, a.scales); },
        join("images[1] is ", image, "; the batch has 2 images"));
  }
}

TEST(DynamicMaskHeadCudaTest, UnknownImagesGiveNan) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  const Arguments a = random_arguments(8, {}, {0, 1, 0}, {3, 4}, 2);
  const at::Tensor features = a.features.cuda().requires_grad_(),
                   parameters = a.parameters.cuda().requires_grad_();
  const at::Tensor images = at::tensor({-1, 1, 2}, at::kLong).cuda();
  const at::Tensor logits =
      dynamic_mask_head(features, parameters, images, a.locations.cuda(), a.scales.cuda());
  EXPECT_TRUE(logits[0].isnan().all().item<bool>());
  EXPECT_FALSE(logits[1].isnan().any().item<bool>());
  EXPECT_TRUE(logits[2].isnan().all().item<bool>());
  logits.sum().backward();
  EXPECT_EQ(features.grad()[0].abs().max().item<float>(), 0.f);
  EXPECT_EQ(parameters.grad()[0].abs().max().item<float>(), 0.f);
}

TEST(DynamicMaskHeadCpuTest, DoesNotDependOnTheThreads) {
  at::manual_seed(7);
  const DynamicHead head;
  const Arguments a = random_arguments(8, head, kImages, {50, 67});
  const auto run = [&] {
    const at::Tensor features = at::sin(a.features).requires_grad_(),
                     parameters = at::sin(a.parameters).requires_grad_();
    const at::Tensor logits = dynamic_mask_head(features, parameters, a.images, a.locations, a.scales, head);
    logits.square().sum().backward();
    return Results{logits, features.grad(), parameters.grad()};
  };
  const int threads = at::get_num_threads();
  const Results parallel = run();
  at::set_num_threads(1);
  const Results serial = run();
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(parallel.logits, serial.logits));
  EXPECT_TRUE(at::equal(parallel.features, serial.features));
  EXPECT_TRUE(at::equal(parallel.parameters, serial.parameters));
}

}  // namespace
}  // namespace instseg
