// SPDX-License-Identifier: Apache-2.0
#include "ops/batch_norm.h"

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include "networks.h"

namespace instseg {
namespace {

struct Run {
  at::Tensor y, grad_x, grad_weight, grad_bias, mean, variance;
};

template <class Function>
Run run(Function function, at::Tensor x, at::Tensor weight, at::Tensor bias, const at::Tensor& grad) {
  Run r;
  x = x.detach().requires_grad_(), weight = weight.detach().requires_grad_(),
  bias = bias.detach().requires_grad_();
  r.mean = at::zeros(weight.sizes(), weight.options().requires_grad(false));
  r.variance = at::ones_like(r.mean);
  r.y = function(x, weight, bias, r.mean, r.variance);
  r.y.backward(grad.to(r.y.dtype()));
  r.grad_x = x.grad(), r.grad_weight = weight.grad(), r.grad_bias = bias.grad();
  return r;
}

TEST(BatchNormTrain, EqualsTheDoublePrecisionTwin) {
  at::manual_seed(1);
  for (const int64_t size : {1, 7, 64}) {
    const auto x = (at::randn({2, 12, size, size + 1}) * 3 + 5).contiguous(at::MemoryFormat::ChannelsLast);
    const auto weight = at::rand({12}) + 0.5, bias = at::randn({12}), grad = at::randn_like(x);
    const auto ours = run([](const auto& a, const auto& w, const auto& b, const auto& m,
                             const auto& v) { return batch_norm_train(a, w, b, m, v, 0.1, 1e-5); },
                          x, weight, bias, grad);
    const auto twin = run([](const auto& a, const auto& w, const auto& b, const auto& m,
                             const auto& v) { return at::batch_norm(a, w, b, m, v, true, 0.1, 1e-5, false); },
                          x.to(at::kDouble).contiguous(), weight.to(at::kDouble), bias.to(at::kDouble), grad);
    testing::expect_near(ours.y, twin.y, 2e-6);
    testing::expect_near(ours.mean, twin.mean, 1e-6);
    testing::expect_near(ours.variance, twin.variance, 1e-6);
    testing::expect_near(ours.grad_x, twin.grad_x, 1e-4);
    testing::expect_near(ours.grad_weight, twin.grad_weight, 1e-4);
    testing::expect_near(ours.grad_bias, twin.grad_bias, 1e-4);
  }
}

TEST(BatchNormTrain, OtherLayoutsGiveTheSameResult) {
  at::manual_seed(2);
  const auto x = at::randn({2, 4, 5, 6}), weight = at::ones({4}), bias = at::zeros({4});
  const auto norm = [&](const at::Tensor& a) {
    return batch_norm_train(a, weight, bias, at::zeros({4}), at::ones({4}), 0.1, 1e-5);
  };
  testing::expect_near(norm(x.contiguous(at::MemoryFormat::ChannelsLast)), norm(x), 1e-5);
}

}  // namespace
}  // namespace instseg
