// SPDX-License-Identifier: Apache-2.0
#include "ops/batch_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
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

/** What a worker with the rows `x` and the gradient `grad` adds to the sums of the two passes. */
std::vector<at::Tensor> shares_of(const at::Tensor& x, const at::Tensor& grad, const at::Tensor& all) {
  const auto rows = [](const at::Tensor& t) { return t.to(at::kDouble).permute({0, 2, 3, 1}).flatten(0, 2); };
  const auto mean = rows(all).mean(0);
  const auto scale = ((rows(all) - mean).square().mean(0) + 1e-5).rsqrt();
  const auto values = rows(x), grads = rows(grad);
  const auto count = at::full({1}, static_cast<double>(values.size(0)), values.options());
  return {at::cat({count, values.sum(0), values.square().sum(0)}),
          at::cat({grads.sum(0), (grads * (values - mean) * scale).sum(0)})};
}

TEST(BatchNormSync, EachWorkerGetsItsRowsOfTheLargeBatch) {
  at::manual_seed(3);
  const auto x = at::randn({5, 6, 4, 7}) * 2 + 3, grad = at::randn_like(x);
  const auto weight = at::rand({6}) + 0.5, bias = at::randn({6});
  const auto whole = run([](const auto& a, const auto& w, const auto& b, const auto& m,
                            const auto& v) { return batch_norm_train(a, w, b, m, v, 0.1, 1e-5); },
                         x, weight, bias, grad);
  const auto part = [&](int64_t begin, int64_t count, int64_t other, int64_t others) {
    const auto shares = shares_of(x.narrow(0, other, others), grad.narrow(0, other, others), x);
    size_t pass = 0;
    return run(
        [&](const auto& a, const auto& w, const auto& b, const auto& m, const auto& v) {
          return batch_norm_sync(a, w, b, m, v, 0.1, 1e-5,
                                 [&](const at::Tensor& own) { return own + shares.at(pass++); });
        },
        x.narrow(0, begin, count), weight, bias, grad.narrow(0, begin, count));
  };
  const auto first = part(0, 2, 2, 3), second = part(2, 3, 0, 2);
  testing::expect_near(at::cat({first.y, second.y}), whole.y, 1e-5);
  testing::expect_near(at::cat({first.grad_x, second.grad_x}), whole.grad_x, 1e-5);
  testing::expect_near(first.grad_weight + second.grad_weight, whole.grad_weight, 1e-4);
  testing::expect_near(first.grad_bias + second.grad_bias, whole.grad_bias, 1e-4);
  testing::expect_near(first.mean, whole.mean, 1e-6);
  testing::expect_near(second.variance, whole.variance, 1e-5);
}

}  // namespace
}  // namespace instseg
