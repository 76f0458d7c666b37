// SPDX-License-Identifier: Apache-2.0
#include "losses/mask_losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>

#include "instseg/ops/focal_loss.h"

namespace instseg {

at::Tensor semantic_focal_loss(const at::Tensor& logits, const at::Tensor& labels, double alpha,
                               double gamma) {
  const int64_t classes = logits.size(1);
  const auto flat = labels.flatten();
  const auto known = flat.ge(0);
  const auto rows = logits.permute({0, 2, 3, 1}).reshape({-1, classes});
  const auto sum = sigmoid_focal_loss(rows, at::where(known, flat, classes), alpha, gamma);
  return sum / known.sum().clamp_min(1);
}

}  // namespace instseg
