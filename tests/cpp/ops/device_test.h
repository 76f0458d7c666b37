// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

#include "instseg/error.h"

namespace instseg::test {

/** Runs each test on the CPU and, where there is one, on a CUDA device. */
class DeviceTest : public ::testing::TestWithParam<at::DeviceType> {
 protected:
  void SetUp() override {
    if (GetParam() == at::kCUDA && !at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
    at::manual_seed(7);
  }
  at::Device device() const { return at::Device(GetParam()); }
  at::Tensor here(const at::Tensor& tensor) const { return tensor.to(device()); }
};

inline std::string device_name(const ::testing::TestParamInfo<at::DeviceType>& info) {
  return info.param == at::kCPU ? "cpu" : "cuda";
}

#define INSTSEG_ON_DEVICES(suite) \
  INSTANTIATE_TEST_SUITE_P(Devices, suite, ::testing::Values(at::kCPU, at::kCUDA), instseg::test::device_name)

/** Largest absolute difference, in float64 on the CPU; 0 for empty tensors; infinite for different shapes. */
inline double difference(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return INFINITY;
  if (a.numel() == 0) return 0;
  return (a.detach().cpu().to(at::kDouble) - b.detach().cpu().to(at::kDouble)).abs().max().item<double>();
}

/** Whether two tensors hold the same values, wherever they are. */
inline bool same(const at::Tensor& a, const at::Tensor& b) { return at::equal(a.cpu(), b.cpu()); }

/** Expects `call` to throw E with a one-line text that contains `text`. */
template <class E, class Call>
void expect_error(const Call& call, const std::string& text) {
  try {
    call();
    ADD_FAILURE() << "no error; expected: " << text;
  } catch (const E& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}

/** Numeric gradient of function([...]) -> scalar at float64 `x`, central differences. */
template <class Function>
at::Tensor numeric_gradient(const Function& function, const at::Tensor& x, double step = 1e-5) {
  at::Tensor grad = at::empty_like(x), moved = x.clone();
  double* values = moved.mutable_data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double value = values[i];
    values[i] = value + step;
    const double above = function(moved).template item<double>();
    values[i] = value - step;
    const double below = function(moved).template item<double>();
    values[i] = value;
    grad.mutable_data_ptr<double>()[i] = (above - below) / (2 * step);
  }
  return grad;
}

}  // namespace instseg::test
