// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/conv_at.h"

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::difference;
using test::expect_error;

struct Cells {
  at::Tensor levels, images, positions;
};

// Some cells of every level, corners included, in no order and some of them twice.
Cells random_cells(const std::vector<at::Tensor>& maps, int64_t per_level) {
  std::vector<at::Tensor> levels, images, positions;
  for (size_t level = 0; level < maps.size(); ++level) {
    const int64_t cells = maps[level].size(2) * maps[level].size(3);
    positions.push_back(at::cat(
        {at::randint(cells, {per_level}, at::kLong), at::tensor({int64_t{0}, cells - 1}, at::kLong)}));
    images.push_back(at::randint(maps[level].size(0), {per_level + 2}, at::kLong));
    levels.push_back(at::full({per_level + 2}, static_cast<int64_t>(level), at::kLong));
  }
  const at::Tensor order = at::randperm(static_cast<int64_t>(maps.size()) * (per_level + 2), at::kLong);
  const auto shuffled = [&](const std::vector<at::Tensor>& parts) { return at::cat(parts).index({order}); };
  return {shuffled(levels), shuffled(images), shuffled(positions)};
}

// Whole convolutions, then a row per cell.
at::Tensor plain_conv_at(const std::vector<at::Tensor>& maps, const at::Tensor& weight,
                         const at::Tensor& bias, const Cells& cells) {
  std::vector<at::Tensor> rows, starts;
  int64_t start = 0;
  for (const at::Tensor& map : maps) {
    rows.push_back(at::conv2d(map, weight, bias, 1, 1).permute({0, 2, 3, 1}).flatten(0, 2));
    starts.push_back(at::tensor({start, map.size(2) * map.size(3)}, at::kLong));
    start += rows.back().size(0);
  }
  const at::Tensor table = at::stack(starts).index({cells.levels});  // [M, 2] first row, cells per image
  return at::cat(rows).index({table.select(1, 0) + cells.images * table.select(1, 1) + cells.positions});
}

struct Outcome {
  at::Tensor result, weight_grad, bias_grad;
  std::vector<at::Tensor> map_grads;
};

template <class Function>
Outcome evaluate(const Function& function, const std::vector<at::Tensor>& maps, const at::Tensor& weight,
                 const at::Tensor& bias, const at::Tensor& direction) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& map : maps) leaves.push_back(map.detach().requires_grad_());
  const at::Tensor w = weight.detach().requires_grad_(), b = bias.detach().requires_grad_();
  const at::Tensor result = function(leaves, w, b);
  (result * direction).sum().backward();
  Outcome outcome{result.detach(), w.grad(), b.grad(), {}};
  for (const at::Tensor& leaf : leaves) outcome.map_grads.push_back(leaf.grad());
  return outcome;
}

class ConvAtTest : public test::DeviceTest {
 protected:
  static std::vector<at::Tensor> pyramid(int64_t channels) {
    std::vector<at::Tensor> maps;
    for (const auto& [height, width] :
         std::vector<std::pair<int64_t, int64_t>>{{13, 20}, {7, 10}, {4, 5}, {1, 2}}) {
      maps.push_back(at::randn({2, channels, height, width}));
    }
    return maps;
  }

  Outcome expect_twin(const std::vector<at::Tensor>& maps, const at::Tensor& weight, const Cells& cells,
                      double map_rounding = 2e-6) {
    const at::Tensor bias = at::randn({weight.size(0)});
    const at::Tensor direction = at::randn({cells.levels.size(0), weight.size(0)});
    std::vector<at::Tensor> ours_in, twin_in;
    for (const at::Tensor& map : maps) {
      ours_in.push_back(here(map));
      twin_in.push_back(map.to(at::kDouble));
    }
    const auto ours = evaluate(
        [&](const auto& m, const at::Tensor& w, const at::Tensor& b) {
          return conv_at(m, w, b, here(cells.levels), here(cells.images), here(cells.positions));
        },
        ours_in, here(weight), here(bias), here(direction));
    const auto twin =
        evaluate([&](const auto& m, const at::Tensor& w,
                     const at::Tensor& b) { return plain_conv_at(m, w, b, cells); },
                 twin_in, weight.to(at::kDouble), bias.to(at::kDouble), direction.to(at::kDouble));
    EXPECT_EQ(ours.result.scalar_type(), at::kFloat);
    expect_close(ours.result, twin.result, 2e-6);
    expect_close(ours.weight_grad, twin.weight_grad, 2e-6);
    expect_close(ours.bias_grad, twin.bias_grad, 2e-6);
    for (size_t level = 0; level < maps.size(); ++level) {
      EXPECT_EQ(ours.map_grads[level].scalar_type(), maps[level].scalar_type());
      expect_close(ours.map_grads[level], twin.map_grads[level], map_rounding);
    }
    return ours;
  }

  static void expect_close(const at::Tensor& ours, const at::Tensor& twin, double rounding) {
    const double scale = twin.numel() == 0 ? 0 : twin.abs().max().item<double>();
    EXPECT_LE(difference(ours, twin), rounding * (1 + scale));
  }
};
INSTSEG_ON_DEVICES(ConvAtTest);

TEST_P(ConvAtTest, MatchesConvolution) {
  for (const int64_t channels : {1, 16, 40}) {
    const auto maps = pyramid(channels);
    expect_twin(maps, at::randn({11, channels, 3, 3}), random_cells(maps, 12));
  }
}

TEST_P(ConvAtTest, AnyMemoryFormat) {
  auto maps = pyramid(16);
  maps[0] = maps[0].contiguous(at::MemoryFormat::ChannelsLast);
  maps[1] = maps[1].transpose(2, 3);
  maps[2] = at::randn({2, 32, 9, 5}).slice(1, 0, 32, 2);
  const at::Tensor weight = at::randn({6, 16, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast);
  expect_twin(maps, weight, random_cells(maps, 12));
}

TEST_P(ConvAtTest, HalfPrecisionMaps) {
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    auto maps = pyramid(16);
    for (at::Tensor& map : maps) map = map.to(type);
    // The gradient of a map adds up in its own dtype, from up to a dozen cells.
    expect_twin(maps, at::randn({6, 16, 3, 3}), random_cells(maps, 5), type == at::kHalf ? 4e-3 : 3e-2);
  }
}

TEST_P(ConvAtTest, LevelsWithoutCells) {
  const auto maps = pyramid(8);
  const Cells cells{at::full({3}, 2, at::kLong), at::tensor({0, 1, 1}, at::kLong),
                    at::tensor({7, 7, 19}, at::kLong)};
  const Outcome ours = expect_twin(maps, at::randn({5, 8, 3, 3}), cells);
  EXPECT_EQ(ours.map_grads[0].abs().max().item<double>(), 0);
}

TEST_P(ConvAtTest, NanElsewhereIsNotRead) {
  auto maps = pyramid(8);
  maps[0].fill_(NAN);
  maps[1].select(2, 3).fill_(NAN);
  const Cells cells{at::ones({1}, at::kLong), at::zeros({1}, at::kLong), at::tensor({10}, at::kLong)};
  std::vector<at::Tensor> there;
  for (const at::Tensor& map : maps) there.push_back(here(map));
  const at::Tensor result = conv_at(there, here(at::randn({5, 8, 3, 3})), here(at::zeros({5})),
                                    here(cells.levels), here(cells.images), here(cells.positions));
  EXPECT_FALSE(result.isnan().any().item<bool>());
}

TEST_P(ConvAtTest, NoCellsStillReachEveryParameter) {
  const at::Tensor none = at::empty({0}, at::kLong);
  const auto maps = pyramid(8);
  const Outcome ours = expect_twin(maps, at::randn({5, 8, 3, 3}), {none, none, none});
  EXPECT_EQ(ours.result.sizes(), at::IntArrayRef({0, 5}));
  EXPECT_EQ(ours.weight_grad.abs().max().item<double>(), 0);
  EXPECT_EQ(ours.bias_grad.abs().max().item<double>(), 0);
}

TEST_P(ConvAtTest, RejectsBadInput) {
  std::vector<at::Tensor> maps;
  for (const at::Tensor& map : pyramid(8)) maps.push_back(here(map));
  const at::Tensor weight = here(at::zeros({5, 8, 3, 3})), bias = here(at::zeros({5})),
                   zero = here(at::zeros({2}, at::kLong));
  const auto call = [&](const std::vector<at::Tensor>& m, const at::Tensor& w, const at::Tensor& b) {
    return [=] { conv_at(m, w, b, zero, zero, zero); };
  };
  expect_error<ValueError>(call({}, weight, bias), "there are no maps");
  expect_error<ValueError>(call({maps[0][0]}, weight, bias), "expected [B, 8, H, W]");
  expect_error<ValueError>(call({maps[0], maps[1].slice(0, 1)}, weight, bias), "[1, 8, 7, 10]");
  expect_error<ValueError>(call({maps[0].slice(1, 1)}, weight, bias), "[2, 7, 13, 20]");
  expect_error<ValueError>(call(maps, weight.slice(3, 1), bias), "expected [O, C, 3, 3]");
  expect_error<ValueError>(call(maps, weight, bias.slice(0, 1)), "bias has shape [4]");
  expect_error<TypeError>(call({maps[0].to(at::kDouble)}, weight, bias), "a map is Double");
  expect_error<TypeError>(call({maps[0], maps[1].to(at::kHalf)}, weight, bias), "use one dtype");
  expect_error<TypeError>(call(maps, weight.to(at::kHalf), bias), "weight is Half");
  const at::Tensor one = here(at::zeros({1}, at::kLong));
  expect_error<ValueError>([&] { conv_at(maps, weight, bias, zero, one, zero); }, "images has shape [1]");
  expect_error<TypeError>([&] { conv_at(maps, weight, bias, zero, zero, zero.to(at::kInt)); },
                          "positions is Int");
}

TEST(ConvAtCpuTest, CellsMustExist) {
  const std::vector<at::Tensor> maps = {at::zeros({2, 8, 3, 4}), at::zeros({2, 8, 1, 2})};
  const at::Tensor weight = at::zeros({5, 8, 3, 3}), bias = at::zeros({5});
  const auto call = [&](int64_t level, int64_t image, int64_t position) {
    const auto cell = [](int64_t value) { return at::full({1}, value, at::kLong); };
    return [=] { conv_at(maps, weight, bias, cell(level), cell(image), cell(position)); };
  };
  expect_error<ValueError>(call(2, 0, 0), "levels[0] is 2; there are 2 maps");
  expect_error<ValueError>(call(-1, 0, 0), "levels[0] is -1");
  expect_error<ValueError>(call(1, 0, 2), "positions[0] 2; the map has shape [2, 8, 1, 2]");
  expect_error<ValueError>(call(0, 2, 0), "images[0] is 2");
  EXPECT_NO_THROW(call(0, 1, 11)());
}

}  // namespace
}  // namespace instseg
