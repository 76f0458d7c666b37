// SPDX-License-Identifier: Apache-2.0
#include "instseg/version.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>
#include <torch/version.h>

#include <algorithm>

#include "instseg/image.h"
#include "kernels/cuda_info.h"

namespace instseg {
namespace {

TEST(BuildInfo, SaysWhatThisBuildCanDo) {
  const BuildInfo info = build_info();
  EXPECT_EQ(std::count(info.version.begin(), info.version.end(), '.'), 2) << info.version;
  EXPECT_EQ(info.torch_version, TORCH_VERSION);
  EXPECT_NE(info.compiler.find(' '), std::string::npos) << info.compiler;
  EXPECT_EQ(info.image_decoders, image_decoders());
  EXPECT_EQ(info.cuda_available, at::hasCUDA());
  EXPECT_FALSE(info.cpu_capability.empty());
}

TEST(BuildInfo, ArchitecturesExactlyWithCudaKernels) {
  const BuildInfo info = build_info();
  EXPECT_EQ(info.cuda_kernels, kernels::cuda_compiled());
  EXPECT_EQ(info.cuda_archs.empty(), !info.cuda_kernels);
  for (const std::string& arch : info.cuda_archs) {
    EXPECT_EQ(arch.find_first_of("-,; "), std::string::npos) << arch;
  }
}

}  // namespace
}  // namespace instseg
