// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/nms.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max.h>
#include <c10/core/DeviceGuard.h>

#include <cstring>
#include <limits>
#include <vector>

#include "kernels/nms.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"
#include "ops/rounding.h"

namespace instseg {
namespace {

at::Tensor run_cpu(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& labels,
                   float threshold) {
  const auto keep = kernels::nms_cpu(boxes.const_data_ptr<float>(), scores.const_data_ptr<float>(),
                                     labels.defined() ? labels.const_data_ptr<int64_t>() : nullptr,
                                     boxes.size(0), threshold);
  at::Tensor out = at::empty({static_cast<int64_t>(keep.size())}, boxes.options().dtype(at::kLong));
  if (!keep.empty()) std::memcpy(out.mutable_data_ptr<int64_t>(), keep.data(), keep.size() * sizeof(int64_t));
  return out;
}

at::Tensor run_cuda(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& labels,
                    float threshold) {
  const int64_t n = boxes.size(0);
  const c10::DeviceGuard guard(boxes.device());
  const auto options = boxes.options().dtype(at::kLong);
  // NaN scores rank last, as on the CPU; argsort alone would put them first.
  const at::Tensor ranks = scores.nan_to_num(-std::numeric_limits<double>::infinity(), {}, {});
  const at::Tensor order = at::argsort(ranks, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor mask = at::empty({(n + 1) * kernels::nms_words(n)}, options);
  const at::Tensor keep = at::empty({n}, options), count = at::empty({1}, options);
  kernels::nms_cuda(
      boxes.const_data_ptr<float>(), labels.defined() ? labels.const_data_ptr<int64_t>() : nullptr,
      order.const_data_ptr<int64_t>(), n, threshold,
      reinterpret_cast<uint64_t*>(mask.mutable_data_ptr<int64_t>()), keep.mutable_data_ptr<int64_t>(),
      count.mutable_data_ptr<int64_t>(), current_stream(boxes));
  return keep.narrow(0, 0, count.item<int64_t>());
}

}  // namespace

at::Tensor nms(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& labels,
               double iou_threshold, bool class_offset) {
  check_rows_of_four("nms", "boxes", boxes);
  check_vector("nms", "scores", scores, boxes.size(0));
  check_vector("nms", "labels", labels, boxes.size(0));
  check_dtype("nms", "boxes", boxes, at::kFloat);
  check_dtype("nms", "scores", scores, at::kFloat);
  check_dtype("nms", "labels", labels, at::kLong);
  check_device("nms", boxes.device());
  check_same_device("nms", "scores", scores, boxes.device());
  check_same_device("nms", "labels", labels, boxes.device());
  check<ValueError>(iou_threshold >= 0 && iou_threshold <= 1, "[nms] iou_threshold is ", iou_threshold,
                    "; use a value in 0..1");
  check<ValueError>(boxes.size(0) <= std::numeric_limits<int32_t>::max(), "[nms] ", boxes.size(0),
                    " boxes; at most 2^31 - 1");
  if (boxes.size(0) == 0) return at::empty({0}, boxes.options().dtype(at::kLong));

  at::Tensor placed = boxes.detach(), classes = labels;
  if (class_offset) {
    placed = placed + (labels.to(at::kFloat) * (placed.max() + 1)).unsqueeze(1);
    classes = at::Tensor();
  }
  placed = placed.contiguous();
  if (classes.defined()) classes = classes.contiguous();
  const at::Tensor ranks = scores.detach().contiguous();
  const float threshold = round_down(iou_threshold);
  return boxes.is_cpu() ? run_cpu(placed, ranks, classes, threshold)
                        : run_cuda(placed, ranks, classes, threshold);
}

}  // namespace instseg
