// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/locations.h"

#include "ops/device_test.h"

namespace instseg {
namespace {

using test::expect_error;
using test::same;

class LocationsTest : public test::DeviceTest {};
INSTSEG_ON_DEVICES(LocationsTest);

TEST_P(LocationsTest, RowsOfXAndYWithXFastest) {
  const at::Tensor out =
      locations({.height = 2, .width = 3, .step_x = 8, .step_y = 16, .offset = 4}, device());
  const at::Tensor expected =
      at::tensor({4.f, 4.f, 12.f, 4.f, 20.f, 4.f, 4.f, 20.f, 12.f, 20.f, 20.f, 20.f}).view({6, 2});
  EXPECT_EQ(out.device().type(), GetParam());
  EXPECT_EQ(out.scalar_type(), at::kFloat);
  EXPECT_TRUE(same(out, expected));
}

TEST_P(LocationsTest, EmptyGrid) {
  EXPECT_EQ(locations({.height = 0, .width = 5}, device()).sizes(), at::IntArrayRef({0, 2}));
}

TEST_P(LocationsTest, RejectsBadGrids) {
  expect_error<ValueError>([&] { locations({.height = -1, .width = 5}, device()); }, "grid of -1 x 5");
  expect_error<ValueError>([&] { locations({.height = 1, .width = 5, .step_x = 0}, device()); },
                           "steps 0, 1");
}

}  // namespace
}  // namespace instseg
