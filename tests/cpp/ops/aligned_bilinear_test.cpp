// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/aligned_bilinear.h"

#include <algorithm>
#include <vector>

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;

// The definition by padding and corner-aligned interpolation, on [N, C, H, W].
at::Tensor plain_aligned_bilinear(const at::Tensor& x, int64_t factor) {
  const int64_t height = factor * x.size(2), width = factor * x.size(3), shift = factor / 2;
  at::Tensor out = at::replication_pad2d(x, {0, 1, 0, 1});
  out = at::upsample_bilinear2d(out, {height + 1, width + 1}, /*align_corners=*/true);
  out = at::replication_pad2d(out, {shift, 0, shift, 0});
  return out.slice(2, 0, height).slice(3, 0, width);
}

class AlignedBilinearTest : public test::DeviceTest {
 protected:
  // Values, dtype, memory format and gradient; `view` makes the argument from a leaf.
  template <class View>
  void expect_twin(const at::Tensor& leaf, int64_t factor, const View& view) {
    const at::Tensor mine = here(leaf).detach().requires_grad_();
    const at::Tensor exact = leaf.to(at::kDouble).requires_grad_();
    const at::Tensor x = view(mine), twin_x = view(exact);
    const at::Tensor out = aligned_bilinear(x, factor);
    const at::Tensor twin = x.dim() == 4 ? plain_aligned_bilinear(twin_x, factor)
                                         : plain_aligned_bilinear(twin_x.unsqueeze(0), factor).squeeze(0);
    const double rounding = leaf.scalar_type() == at::kFloat ? 1e-6 : 8e-3;
    EXPECT_EQ(out.scalar_type(), leaf.scalar_type());
    EXPECT_LE(difference(out, twin), rounding * 4) << leaf.sizes() << " factor " << factor;
    EXPECT_EQ(out.suggest_memory_format(), x.suggest_memory_format());
    // Few bits, so that the gradient sums below are rounded only by the output's dtype.
    const at::Tensor weight = at::randint(-4, 5, twin.sizes(), at::kDouble) / 4;
    (out * here(weight.to(out.scalar_type()))).sum().backward();
    (twin * weight).sum().backward();
    EXPECT_EQ(mine.grad().scalar_type(), leaf.scalar_type());
    EXPECT_LE(difference(mine.grad(), exact.grad()),
              rounding * std::max(1.0, exact.grad().abs().max().item<double>()))
        << leaf.sizes() << " factor " << factor;
  }
  void expect_twin(const at::Tensor& leaf, int64_t factor) {
    expect_twin(leaf, factor, [](const at::Tensor& x) { return x; });
  }
};
INSTSEG_ON_DEVICES(AlignedBilinearTest);

TEST_P(AlignedBilinearTest, MatchesTwin) {
  for (const int64_t factor : {1, 2, 3, 4, 5, 7, 8, 16}) {
    for (const std::vector<int64_t>& sizes :
         {std::vector<int64_t>{2, 3, 5, 7}, {1, 2, 1, 1}, {1, 1, 1, 9}, {1, 1, 9, 1}, {2, 1, 33, 50}}) {
      expect_twin(at::randn(sizes), factor);
    }
    expect_twin(at::randn({4, 6, 5}), factor);
  }
}

TEST_P(AlignedBilinearTest, KeepsChannelsLast) {
  for (const int64_t factor : {1, 2, 3, 4, 8}) {
    for (const std::vector<int64_t>& sizes :
         {std::vector<int64_t>{2, 3, 5, 7}, {1, 128, 6, 5}, {2, 17, 1, 4}}) {
      expect_twin(at::randn(sizes).to(at::MemoryFormat::ChannelsLast), factor);
    }
  }
}

TEST_P(AlignedBilinearTest, TakesStridedViews) {
  expect_twin(at::randn({2, 7, 5, 3}), 2, [](const at::Tensor& x) { return x.permute({0, 3, 2, 1}); });
  expect_twin(at::randn({2, 3, 9, 8}), 4, [](const at::Tensor& x) { return x.slice(2, 1, 9, 2); });
  expect_twin(at::randn({6, 5, 4}), 2, [](const at::Tensor& x) { return x.transpose(0, 2); });
  expect_twin(at::randn({1, 3, 4, 1}), 2, [](const at::Tensor& x) { return x.expand({2, 3, 4, 5}); });
}

TEST_P(AlignedBilinearTest, TakesHalfPrecision) {
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    for (const int64_t factor : {1, 2, 3, 4}) {
      expect_twin(at::randn({2, 5, 6, 7}).to(type), factor);
      expect_twin(at::randn({2, 24, 6, 7}).to(type).to(at::MemoryFormat::ChannelsLast), factor);
    }
  }
}

TEST_P(AlignedBilinearTest, RepeatsTheEdges) {
  const at::Tensor x = at::tensor({1.f, 3.f}).view({1, 1, 1, 2});
  const at::Tensor two = at::tensor({1.f, 1.f, 2.f, 3.f}).expand({2, 4}).view({1, 1, 2, 4});
  EXPECT_TRUE(test::same(aligned_bilinear(here(x), 2), two));
  const at::Tensor four = at::tensor({1.f, 1.f, 1.f, 1.5f, 2.f, 2.5f, 3.f, 3.f}).expand({4, 8});
  EXPECT_TRUE(test::same(aligned_bilinear(here(x), 4)[0][0], four));
}

TEST_P(AlignedBilinearTest, FactorOneIsACopy) {
  const at::Tensor x = here(at::full({1, 2, 3, 4}, INFINITY));
  const at::Tensor out = aligned_bilinear(x, 1);
  EXPECT_TRUE(test::same(out, x));
  EXPECT_FALSE(out.is_alias_of(x));
}

TEST_P(AlignedBilinearTest, EmptyInput) {
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{0, 3, 4, 5}, {2, 0, 4, 5}}) {
    const at::Tensor x = here(at::empty(sizes)).requires_grad_();
    const at::Tensor out = aligned_bilinear(x, 2);
    EXPECT_EQ(out.sizes(), at::IntArrayRef({sizes[0], sizes[1], 8, 10}));
    out.sum().backward();
    EXPECT_EQ(x.grad().sizes(), sizes);
  }
  EXPECT_EQ(aligned_bilinear(here(at::empty({0, 4, 5})), 4).sizes(), at::IntArrayRef({0, 16, 20}));
}

TEST_P(AlignedBilinearTest, RejectsBadInput) {
  const at::Tensor x = here(at::zeros({1, 2, 3, 4}));
  expect_error<ValueError>([&] { aligned_bilinear(x, 0); }, "[aligned_bilinear] factor is 0");
  expect_error<ValueError>([&] { aligned_bilinear(x[0][0], 2); }, "x has shape [3, 4]");
  expect_error<ValueError>([&] { aligned_bilinear(here(at::zeros({1, 2, 0, 4})), 2); }, "H, W >= 1");
  expect_error<ValueError>([] { aligned_bilinear(at::Tensor(), 2); }, "x is missing");
  expect_error<TypeError>([&] { aligned_bilinear(x.to(at::kDouble), 2); }, "x is Double");
}

}  // namespace
}  // namespace instseg
