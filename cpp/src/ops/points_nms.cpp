// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/points_nms.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/sigmoid.h>

#include <vector>

#include "kernels/points_nms.h"
#include "ops/checks.h"
#include "ops/rounding.h"

namespace instseg {
namespace {

GridCandidates run_cpu(const at::Tensor& logits, double threshold) {
  // A channels-last map is read as it is.
  const bool channels_last = !logits.is_contiguous() && logits.permute({1, 2, 0}).is_contiguous();
  const at::Tensor dense = channels_last ? logits : logits.contiguous();
  const auto found = kernels::points_nms_cpu(
      {dense.const_data_ptr<float>(), dense.size(0), dense.size(1), dense.size(2), channels_last}, threshold);
  const auto count = static_cast<int64_t>(found.size());
  const auto whole = logits.options().dtype(at::kLong);
  GridCandidates out{at::empty({count}, whole), at::empty({count}, whole),
                     at::empty({count}, logits.options())};
  auto* cells = out.cells.mutable_data_ptr<int64_t>();
  auto* labels = out.labels.mutable_data_ptr<int64_t>();
  auto* scores = out.scores.mutable_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i) {
    cells[i] = found[i].cell;
    labels[i] = found[i].label;
    scores[i] = found[i].score;
  }
  return out;
}

// A pooled map is one row and column larger: its front is the maximum over the cell and those before it.
GridCandidates run_cuda(const at::Tensor& logits, double threshold) {
  const at::Tensor scores = at::sigmoid(logits);
  const at::Tensor pooled = at::max_pool2d(scores, {2, 2}, {1, 1}, {1, 1})
                                .narrow(1, 0, logits.size(1))
                                .narrow(2, 0, logits.size(2));
  const at::Tensor kept = (scores > round_down(threshold)).logical_and_(scores == pooled);
  const at::Tensor places = kept.permute({1, 2, 0}).reshape({-1, logits.size(0)}).nonzero();
  const at::Tensor cells = places.select(1, 0).contiguous(), labels = places.select(1, 1).contiguous();
  const at::Tensor flat = scores.reshape({-1});
  return {cells, labels, flat.index_select(0, labels * (logits.size(1) * logits.size(2)) + cells)};
}

}  // namespace

GridCandidates points_nms(const at::Tensor& logits, double threshold) {
  check_defined("points_nms", "logits", logits);
  check<ValueError>(logits.dim() == 3, "[points_nms] logits have shape ", logits.sizes(),
                    "; expected [C, H, W]");
  check_dtype("points_nms", "logits", logits, at::kFloat);
  check_device("points_nms", logits.device());
  check<ValueError>(threshold >= 0 && threshold <= 1, "[points_nms] threshold is ", threshold,
                    "; use a value in 0..1");
  const at::Tensor plain = logits.detach();
  if (plain.numel() == 0) {
    const auto whole = plain.options().dtype(at::kLong);
    return {at::empty({0}, whole), at::empty({0}, whole), at::empty({0}, plain.options())};
  }
  return plain.is_cpu() ? run_cpu(plain, threshold) : run_cuda(plain, threshold);
}

}  // namespace instseg
