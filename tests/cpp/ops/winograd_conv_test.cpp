// SPDX-License-Identifier: Apache-2.0
#include "ops/winograd_conv.h"

#include <ATen/Parallel.h>
#include <ATen/ops/conv2d.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;

struct Run {
  at::Tensor y, grad_x, grad_weight, grad_bias;
};

template <class Function>
Run run(const Function& convolve, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
        const at::Tensor& slopes) {
  const auto a = x.detach().clone().requires_grad_(), w = weight.detach().clone().requires_grad_();
  const auto b = bias.defined() ? bias.detach().clone().requires_grad_() : bias;
  Run r;
  r.y = convolve(a, w, b);
  r.y.backward(slopes.to(r.y.dtype()));
  r.grad_x = a.grad(), r.grad_weight = w.grad();
  if (b.defined()) r.grad_bias = b.grad();
  return r;
}

Run ours_of(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& slopes) {
  return run([](const auto& a, const auto& w, const auto& b) { return winograd_conv(a, w, b); }, x, weight,
             bias, slopes);
}

Run twin_of(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& slopes) {
  const auto added = bias.defined() ? bias.to(at::kDouble) : bias;
  return run(
      [](const auto& a, const auto& w, const auto& b) {
        return at::conv2d(a, w, b.defined() ? std::optional<at::Tensor>(b) : std::nullopt, 1, 1);
      },
      x.to(at::kDouble), weight.to(at::kDouble), added, slopes);
}

void expect_close(const at::Tensor& ours, const at::Tensor& twin, const char* what, at::IntArrayRef shape) {
  EXPECT_LE(difference(ours, twin), 4e-6 * twin.abs().max().item<double>()) << what << " " << shape;
}

void expect_twin(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto slopes = at::randn({x.size(0), weight.size(0), x.size(2), x.size(3)});
  const auto ours = ours_of(x, weight, bias, slopes), twin = twin_of(x, weight, bias, slopes);
  EXPECT_TRUE(ours.y.is_contiguous(at::MemoryFormat::ChannelsLast));
  expect_close(ours.y, twin.y, "y", x.sizes());
  expect_close(ours.grad_x, twin.grad_x, "grad_x", x.sizes());
  expect_close(ours.grad_weight, twin.grad_weight, "grad_weight", x.sizes());
  if (bias.defined()) expect_close(ours.grad_bias, twin.grad_bias, "grad_bias", x.sizes());
}

TEST(WinogradConv, EqualsTheDoublePrecisionTwin) {
  at::manual_seed(1);
  for (const auto& [height, width] : {std::pair{1, 1}, {2, 2}, {5, 7}, {16, 9}, {33, 40}}) {
    const auto x = at::randn({2, 20, height, width});
    const auto weight = at::randn({13, 20, 3, 3}), bias = at::randn({13});
    expect_twin(x.contiguous(at::MemoryFormat::ChannelsLast), weight, bias);
    expect_twin(x, weight.contiguous(at::MemoryFormat::ChannelsLast), {});
  }
}

TEST(WinogradConv, WideMapsEqualTheTwin) {
  at::manual_seed(2);
  expect_twin(at::randn({1, 128, 24, 31}), at::randn({96, 128, 3, 3}), at::randn({96}));
}

TEST(WinogradConv, OnlyWantedGradientsAreComputed) {
  const auto x = at::randn({1, 4, 6, 6}), weight = at::randn({3, 4, 3, 3}).requires_grad_();
  winograd_conv(x, weight).sum().backward();
  EXPECT_TRUE(weight.grad().defined());
  EXPECT_FALSE(x.grad().defined());
}

TEST(WinogradConv, DoesNotDependOnTheThreads) {
  at::manual_seed(3);
  const auto x = at::randn({2, 32, 20, 20}), weight = at::randn({32, 32, 3, 3}), bias = at::randn({32});
  const auto slopes = at::randn({2, 32, 20, 20});
  const int threads = at::get_num_threads();
  const auto parallel = ours_of(x, weight, bias, slopes);
  at::set_num_threads(1);
  const auto serial = ours_of(x, weight, bias, slopes);
  at::set_num_threads(threads);
  expect_close(parallel.y, serial.y, "y", x.sizes());
  expect_close(parallel.grad_weight, serial.grad_weight, "grad_weight", x.sizes());
}

TEST(WinogradConv, SecondDerivativesAreThoseOfTheDirectForm) {
  const auto second = [](const auto& convolve) {
    at::manual_seed(9);
    const auto x = at::randn({1, 4, 8, 8}).requires_grad_();
    const auto weight = at::randn({3, 4, 3, 3}).requires_grad_();
    const auto y = convolve(x, weight).square().sum();
    const auto first = torch::autograd::grad({y}, {x}, {}, /*retain_graph=*/true, /*create_graph=*/true)[0];
    first.square().sum().backward();
    return weight.grad();
  };
  const auto ours = second([](const auto& x, const auto& w) { return winograd_conv(x, w); });
  const auto direct = second([](const auto& x, const auto& w) { return at::conv2d(x, w, {}, 1, 1); });
  EXPECT_LE((ours - direct).abs().max().item<double>(), 1e-5 * direct.abs().max().item<double>());
}

TEST(WinogradConv, NoImagesGiveNothing) {
  const auto weight = at::randn({3, 4, 3, 3}).requires_grad_();
  const auto y = winograd_conv(at::zeros({0, 4, 6, 6}), weight);
  EXPECT_EQ(y.sizes(), at::IntArrayRef({0, 3, 6, 6}));
  y.sum().backward();
  EXPECT_TRUE(weight.grad().equal(at::zeros({3, 4, 3, 3})));
}

TEST(WinogradConv, RejectsBadInput) {
  const auto x = at::zeros({1, 4, 6, 6}), weight = at::zeros({3, 4, 3, 3});
  expect_error<ValueError>([&] { winograd_conv(x, at::zeros({3, 4, 1, 1})); }, "expected [O, C, 3, 3]");
  expect_error<ValueError>([&] { winograd_conv(at::zeros({1, 5, 6, 6}), weight); }, "expected [N, 4, H, W]");
  expect_error<ValueError>([&] { winograd_conv(x, weight, at::zeros({2})); }, "bias has shape [2]");
  expect_error<TypeError>([&] { winograd_conv(x.to(at::kDouble), weight); }, "x is Double");
}

TEST(WinogradPays, WhereItTrainsWideMapsOnly) {
  const auto wide = at::zeros({1, 64, 32, 32}).contiguous(at::MemoryFormat::ChannelsLast);
  const auto weight = at::zeros({64, 64, 3, 3}).requires_grad_();
  EXPECT_TRUE(winograd_pays(wide, weight));
  EXPECT_FALSE(winograd_pays(wide, weight.detach()));  // nothing to train
  EXPECT_FALSE(winograd_pays(wide.contiguous(), weight));
  EXPECT_FALSE(winograd_pays(wide.to(at::kBFloat16), weight));
  EXPECT_FALSE(winograd_pays(wide, at::zeros({4, 64, 3, 3}).requires_grad_()));
  EXPECT_FALSE(winograd_pays(wide.narrow(2, 0, 8).contiguous(at::MemoryFormat::ChannelsLast), weight));
  const c10::AutoGradMode no_grad(false);
  EXPECT_FALSE(winograd_pays(wide, weight));
}

}  // namespace
}  // namespace instseg
