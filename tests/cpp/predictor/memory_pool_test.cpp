// SPDX-License-Identifier: Apache-2.0
#include "predictor/memory_pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>

namespace instseg {
namespace {

constexpr int64_t kLarge = 1 << 20;  // floats

TEST(MemoryPool, ReusesABufferOfTheSameSize) {
  MemoryPool pool;
  const PoolScope scope(pool);
  void* first = at::empty({kLarge}).data_ptr();
  EXPECT_EQ(pool.idle_bytes(), kLarge * sizeof(float));
  EXPECT_EQ(at::empty({kLarge}).data_ptr(), first);
}

TEST(MemoryPool, DoesNotHandOutABufferTwice) {
  MemoryPool pool;
  const PoolScope scope(pool);
  const auto a = at::full({kLarge}, 1.f), b = at::full({kLarge}, 2.f);
  EXPECT_NE(a.data_ptr(), b.data_ptr());
  EXPECT_EQ(a.sum().item<float>(), kLarge);
  EXPECT_EQ(pool.idle_bytes(), 0u);
}

TEST(MemoryPool, LeavesSmallAndForeignTensorsAlone) {
  MemoryPool pool;
  {
    const auto outside = at::empty({kLarge});
  }
  {
    const PoolScope scope(pool);
    const auto small = at::empty({16});
    std::thread([] { const auto other_thread = at::empty({kLarge}); }).join();
  }
  EXPECT_EQ(pool.idle_bytes(), 0u);
}

TEST(MemoryPool, TensorsOutliveScopeAndPool) {
  at::Tensor kept;
  {
    std::optional<MemoryPool> pool(std::in_place);
    const PoolScope scope(*pool);
    kept = at::full({kLarge}, 3.f);
  }
  EXPECT_EQ(kept[kLarge - 1].item<float>(), 3.f);
}

TEST(MemoryPool, ReturnsBuffersThatTwoScopesDidNotUse) {
  MemoryPool pool;
  {
    const PoolScope scope(pool);
    at::empty({kLarge});
  }
  EXPECT_EQ(pool.idle_bytes(), kLarge * sizeof(float));
  for (int i = 0; i < 3; ++i) const PoolScope scope(pool);
  EXPECT_EQ(pool.idle_bytes(), 0u);
}

TEST(MemoryPool, RefusesAMuchLargerBuffer) {
  MemoryPool pool;
  const PoolScope scope(pool);
  at::empty({2 * kLarge});
  at::empty({kLarge});
  EXPECT_EQ(pool.idle_bytes(), 3 * kLarge * sizeof(float));
}

}  // namespace
}  // namespace instseg
