// SPDX-License-Identifier: Apache-2.0
#include "losses/solo_losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/tensor.h>

#include "instseg/ops/focal_loss.h"

namespace instseg {

at::Tensor solo_category_loss(const std::vector<at::Tensor>& logits, const std::vector<SoloTargets>& targets,
                              int64_t num_classes, const LossConfig& loss) {
  std::vector<at::Tensor> rows, labels;
  for (size_t level = 0; level < logits.size(); ++level) {
    rows.push_back(logits[level].permute({0, 2, 3, 1}).reshape({-1, num_classes}));
    labels.push_back(targets[level].labels.flatten());
  }
  return sigmoid_focal_loss(at::cat(rows), at::cat(labels).to(logits[0].device()), loss.focal_alpha,
                            loss.focal_gamma);
}

at::Tensor solo_normalizers(const std::vector<SoloTargets>& targets, int64_t num_classes) {
  int64_t cells = 0, masks = 0;
  for (const auto& level : targets) {
    cells += level.labels.ne(num_classes).sum().item<int64_t>();
    masks += level.cells.size(0);
  }
  return at::tensor({static_cast<double>(cells), static_cast<double>(masks)}, at::kFloat);
}

}  // namespace instseg
