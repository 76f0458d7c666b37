// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ops/rand_like.h>
#include <ATen/ops/randn_like.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <algorithm>

#include "instseg/config.h"

namespace instseg::testing {

/** A config that builds in milliseconds: ResNet-18, narrow pyramid, one convolution per tower. */
inline ModelConfig tiny_config() {
  ModelConfig config;
  config.num_classes = 3;
  config.input.short_side = 64;
  config.input.long_side = 96;
  config.backbone = {.name = "resnet18", .norm = "frozen_bn", .freeze = 0, .stride_in_1x1 = false};
  config.neck.channels = 32;
  config.head.cls_convs = config.head.box_convs = 1;
  return config;
}

/** Random values in every parameter and buffer, statistics positive, so that no test passes by identity. */
inline void randomize(torch::nn::Module& module) {
  const c10::AutoGradMode no_grad(false);
  for (auto& item : module.named_parameters()) {
    if (item.value().dim() == 1) item.value().add_(at::randn_like(item.value()), 0.1);
  }
  for (auto& item : module.named_buffers()) {
    auto& buffer = item.value();
    if (!buffer.is_floating_point()) continue;
    const bool variance = item.key().ends_with("running_var");
    buffer.copy_(variance ? at::rand_like(buffer) + 0.5 : buffer + at::randn_like(buffer) * 0.1);
  }
}

/** |a - b| <= tolerance * max |b|. */
inline void expect_near(const at::Tensor& a, const at::Tensor& b, double tolerance) {
  ASSERT_EQ(a.sizes(), b.sizes());
  if (b.numel() == 0) return;
  const double error = (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
  const double scale = b.to(at::kDouble).abs().max().item<double>();
  EXPECT_LE(error, tolerance * std::max(scale, 1e-6)) << "scale " << scale;
}

}  // namespace instseg::testing
