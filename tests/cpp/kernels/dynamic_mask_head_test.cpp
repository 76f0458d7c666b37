// SPDX-License-Identifier: Apache-2.0
#include "kernels/dynamic_mask_head.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/isa.h"

namespace instseg::kernels {
namespace {

std::vector<float> random_floats(size_t n, unsigned seed) {
  std::mt19937 source(seed);
  std::uniform_int_distribution<int> draw(-4, 4);  // few bits: sums are exact in any order
  std::vector<float> out(n);
  for (float& value : out) value = static_cast<float>(draw(source)) / 4;
  return out;
}

struct Results {
  std::vector<float> logits, features, parameters;
};

Results run(HeadView view, int lanes, const std::vector<float>& slopes) {
  const int64_t cells = view.height * view.width, count = parameter_count(view.head);
  view.lanes = lanes;
  std::vector<float> packed(view.instances * count);
  pack_heads_cpu(view, 0, view.instances, packed.data());
  std::vector<int64_t> rows(view.instances);
  std::iota(rows.begin(), rows.end(), 0);
  Results out{std::vector<float>(view.instances * cells), std::vector<float>(view.channels * cells),
              std::vector<float>(view.instances * count)};
  for (int64_t first = 0; first < cells; first += kHeadBlock) {
    dynamic_mask_head_cpu(view, packed.data(), 0, {rows.data(), view.instances}, first, out.logits.data());
  }
  dynamic_mask_head_backward_cpu(view, packed.data(), 0, {rows.data(), view.instances}, 0, slopes.data(),
                                 out.features.data(), out.parameters.data());
  return out;
}

// What other machines run, on this one.
TEST(DynamicMaskHeadKernelTest, EveryInstructionSetGivesTheSame) {
  for (const int64_t width : {1, 2, 3, 4, 7, 8, 16, 21}) {
    const HeadLayout head{10, 3, width};
    const auto features = random_floats(8 * 23 * 29, 1),
               parameters = random_floats(3 * parameter_count(head), 2);
    const auto slopes = random_floats(3 * 23 * 29, 3);
    const std::vector<int64_t> images(3, 0);
    const std::vector<float> locations = {4, 100, 60, 44, 12, 0}, scales = {64, 128, 256};
    HeadView view{head, HeadCoordinates::relative, 8, features.data(), parameters.data(), images.data()};
    view.locations = locations.data();
    view.scales = scales.data();
    view.batch = 1;
    view.channels = 8;
    view.height = 23;
    view.width = 29;
    view.instances = 3;
    const Results plain = run(view, 4, slopes);
    EXPECT_GT(std::abs(std::accumulate(plain.logits.begin(), plain.logits.end(), 0.0)), 0);
    for (int lanes = 8; lanes <= float_lanes(); lanes *= 2) {
      const Results wide = run(view, lanes, slopes);
      EXPECT_EQ(wide.logits, plain.logits) << lanes << " lanes, width " << width;
      EXPECT_EQ(wide.features, plain.features) << lanes << " lanes, width " << width;
      for (size_t i = 0; i < plain.parameters.size(); ++i) {
        EXPECT_NEAR(wide.parameters[i], plain.parameters[i], 1e-6 * (1 + std::abs(plain.parameters[i]))) << i;
      }
    }
  }
}

}  // namespace
}  // namespace instseg::kernels
