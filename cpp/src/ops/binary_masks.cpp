// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/binary_masks.h"

#include <ATen/Parallel.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/binary_masks.h"
#include "kernels/nms.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"
#include "ops/rounding.h"

namespace instseg {
namespace {

using kernels::PackedView;
using kernels::PairTile;

constexpr int64_t kGrain = 1 << 15;  // words or pairs of words of a task

uint64_t* words_of(const at::Tensor& bits) {
  return reinterpret_cast<uint64_t*>(bits.mutable_data_ptr<int64_t>());
}

/** Masks as the kernels read them, contiguous. */
struct Packed {
  at::Tensor bits, areas;
  std::vector<kernels::WordRange> used;  // on the CPU

  explicit Packed(const PackedMasks& masks) : bits(masks.bits.contiguous()), areas(masks.areas.contiguous()) {
    if (!bits.is_cpu()) return;
    const int64_t words = bits.size(1);
    const auto* data = reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>());
    used.resize(bits.size(0));
    at::parallel_for(0, bits.size(0), 1 + kGrain / (words + 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) used[i] = kernels::used_words_cpu(data + i * words, words);
    });
  }

  PackedView view() const {
    return {reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>()),
            areas.const_data_ptr<int64_t>(), used.data(), bits.size(1)};
  }
};

/** Calls function(task) for 0..count-1, each a tile of pairs of `words` words. */
template <class Function>
void for_tiles(int64_t count, int64_t words, const Function& function) {
  const int64_t cost = kernels::kPairTile * kernels::kPairTile * (words + 1);
  at::parallel_for(0, count, 1 + kGrain / cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) function(i);
  });
}

/** Indices of the masks of each label, in the order given. */
struct Groups {
  std::vector<int64_t> members;
  std::vector<int64_t> begins;  // of each group, and the end of the last

  Groups(const int64_t* labels, std::vector<int64_t> order) : members(std::move(order)) {
    std::stable_sort(members.begin(), members.end(),
                     [&](int64_t a, int64_t b) { return labels[a] < labels[b]; });
    for (size_t i = 0; i < members.size(); ++i) {
      if (i == 0 || labels[members[i]] != labels[members[i - 1]]) begins.push_back(static_cast<int64_t>(i));
    }
    begins.push_back(static_cast<int64_t>(members.size()));
  }

  int64_t count() const { return static_cast<int64_t>(begins.size()) - 1; }
  int64_t size(int64_t group) const { return begins[group + 1] - begins[group]; }
  const int64_t* of(int64_t group) const { return members.data() + begins[group]; }
};

void check_masks(const char* function, const char* name, const PackedMasks& masks) {
  check<ValueError>(masks.bits.defined() && masks.areas.defined() && masks.mass.defined(), "[", function,
                    "] ", name, " are missing; make them with pack_masks");
  check<ValueError>(masks.bits.dim() == 2, "[", function, "] ", name, ".bits has shape ", masks.bits.sizes(),
                    "; expected [N, words]");
  check_vector(function, "areas", masks.areas, masks.bits.size(0));
  check_vector(function, "mass", masks.mass, masks.bits.size(0));
  check_dtype(function, "bits", masks.bits, at::kLong);
  check_dtype(function, "areas", masks.areas, at::kLong);
  check_dtype(function, "mass", masks.mass, at::kFloat);
  check_device(function, masks.bits.device());
  check_same_device(function, "areas", masks.areas, masks.bits.device());
  check_same_device(function, "mass", masks.mass, masks.bits.device());
}

void check_scored(const char* function, const PackedMasks& masks, const at::Tensor& scores,
                  const at::Tensor& labels) {
  check_masks(function, "masks", masks);
  check_vector(function, "scores", scores, masks.size());
  check_vector(function, "labels", labels, masks.size());
  check_dtype(function, "scores", scores, at::kFloat);
  check_dtype(function, "labels", labels, at::kLong);
  check_same_device(function, "scores", scores, masks.bits.device());
  check_same_device(function, "labels", labels, masks.bits.device());
}

void pack_cpu(const at::Tensor& maps, int64_t pixels, float threshold, const PackedMasks& out) {
  const float* source = maps.const_data_ptr<float>();
  uint64_t* bits = words_of(out.bits);
  auto* areas = out.areas.mutable_data_ptr<int64_t>();
  auto* mass = out.mass.mutable_data_ptr<float>();
  const int64_t stride = maps.stride(0), words = kernels::mask_words(pixels);
  at::parallel_for(0, maps.size(0), 1 + kGrain / (pixels + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto sums = kernels::pack_mask_cpu(source + i * stride, pixels, threshold, bits + i * words);
      areas[i] = sums.area;
      mass[i] = static_cast<float>(sums.mass);
    }
  });
}

// IoU within each group, group after group; then the groups' scores.
at::Tensor matrix_cpu(const PackedMasks& masks, const at::Tensor& scores, const at::Tensor& labels,
                      kernels::DecayRule rule) {
  struct Task {
    int64_t group;
    PairTile tile;
  };
  const int64_t n = masks.size();
  const float* score = scores.const_data_ptr<float>();
  for (int64_t i = 1; i < n; ++i) {
    check<ValueError>(!(score[i] > score[i - 1]), "[matrix_nms] scores[", i, "] is ", score[i], " after ",
                      score[i - 1], "; sort the masks by descending score");
  }
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), int64_t{0});
  const Groups groups(labels.const_data_ptr<int64_t>(), std::move(order));
  std::vector<int64_t> offsets(groups.count() + 1, 0);
  std::vector<Task> tasks;
  for (int64_t g = 0; g < groups.count(); ++g) {
    const int64_t size = groups.size(g), step = kernels::kPairTile;
    offsets[g + 1] = offsets[g] + kernels::pair_count(size);
    for (int64_t row = 0; row < size; row += step) {
      for (int64_t column = row; column < size; column += step) {
        tasks.push_back({g, {row, std::min(row + step, size), column, std::min(column + step, size)}});
      }
    }
  }
  const Packed packed(masks);
  const PackedView view = packed.view();
  const at::Tensor iou = at::empty({offsets.back()}, scores.options());
  auto* ious = iou.mutable_data_ptr<float>();
  for_tiles(static_cast<int64_t>(tasks.size()), view.words, [&](int64_t i) {
    const Task& task = tasks[i];
    kernels::iou_triangle_cpu(view, groups.of(task.group), task.tile, ious + offsets[task.group]);
  });
  at::Tensor result = at::empty({n}, scores.options());
  auto* decayed = result.mutable_data_ptr<float>();
  at::parallel_for(0, groups.count(), 1 + kGrain / (n + 1), [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      kernels::decay_scores_cpu(ious + offsets[g], groups.of(g), groups.size(g), rule, score, decayed);
    }
  });
  return result;
}

at::Tensor matrix_cuda(const PackedMasks& masks, const at::Tensor& scores, const at::Tensor& labels,
                       kernels::DecayRule rule) {
  const int64_t n = masks.size();
  const c10::DeviceGuard guard(scores.device());
  const Packed packed(masks);
  const at::Tensor iou = at::empty({n, n}, scores.options()), largest = at::empty({n}, scores.options());
  at::Tensor result = at::empty({n}, scores.options());
  kernels::iou_triangle_cuda(packed.view(), labels.const_data_ptr<int64_t>(), n,
                             iou.mutable_data_ptr<float>(), current_stream(scores));
  kernels::decay_scores_cuda(iou.const_data_ptr<float>(), n, rule, scores.const_data_ptr<float>(),
                             largest.mutable_data_ptr<float>(), result.mutable_data_ptr<float>(),
                             current_stream(scores));
  return result;
}

// NaN scores rank last.
at::Tensor by_score(const at::Tensor& scores) {
  const at::Tensor ranks = scores.nan_to_num(-std::numeric_limits<double>::infinity(), {}, {});
  return at::argsort(ranks, /*stable=*/true, /*dim=*/0, /*descending=*/true);
}

at::Tensor greedy_cpu(const PackedMasks& masks, const at::Tensor& order, const at::Tensor& labels,
                      float threshold) {
  const int64_t n = masks.size();
  const auto* ranked = order.const_data_ptr<int64_t>();
  const Packed packed(masks);
  const PackedView view = packed.view();
  const Groups groups(labels.const_data_ptr<int64_t>(), {ranked, ranked + n});
  std::vector<char> gone(n, 0);  // by index
  for (int64_t g = 0; g < groups.count(); ++g) {
    const int64_t* members = groups.of(g);
    const int64_t size = groups.size(g);
    std::vector<char> dead(size, 0);
    for (int64_t i = 0; i < size; ++i) {
      gone[members[i]] = dead[i];
      if (dead[i]) continue;
      at::parallel_for(i + 1, size, 1 + kGrain / (view.words + 1), [&](int64_t begin, int64_t end) {
        kernels::suppress_masks_cpu(view, members, i, begin, end, threshold, dead.data());
      });
    }
  }
  std::vector<int64_t> keep;
  std::copy_if(ranked, ranked + n, std::back_inserter(keep), [&](int64_t i) { return !gone[i]; });
  at::Tensor out = at::empty({static_cast<int64_t>(keep.size())}, order.options());
  std::copy(keep.begin(), keep.end(), out.mutable_data_ptr<int64_t>());
  return out;
}

at::Tensor greedy_cuda(const PackedMasks& masks, const at::Tensor& order, const at::Tensor& labels,
                       float threshold) {
  const int64_t n = masks.size();
  const c10::DeviceGuard guard(order.device());
  const Packed packed(masks.select(order));
  const at::Tensor classes = labels.index_select(0, order);
  const at::Tensor iou = at::empty({n, n}, masks.mass.options());
  const at::Tensor overlaps = at::empty({n + 1, kernels::nms_words(n)}, order.options());
  const at::Tensor keep = at::empty({n}, order.options()), count = at::empty({1}, order.options());
  void* stream = current_stream(order);
  kernels::iou_triangle_cuda(packed.view(), classes.const_data_ptr<int64_t>(), n,
                             iou.mutable_data_ptr<float>(), stream);
  kernels::mark_overlaps_cuda(iou.const_data_ptr<float>(), n, threshold, words_of(overlaps), stream);
  kernels::nms_pick_cuda(order.const_data_ptr<int64_t>(), n, words_of(overlaps),
                         keep.mutable_data_ptr<int64_t>(), count.mutable_data_ptr<int64_t>(), stream);
  return keep.narrow(0, 0, count.item<int64_t>());
}

}  // namespace

PackedMasks PackedMasks::select(const at::Tensor& index) const {
  check_masks("PackedMasks.select", "masks", *this);
  check_defined("PackedMasks.select", "index", index);
  check<ValueError>(index.dim() == 1, "[PackedMasks.select] index has shape ", index.sizes(),
                    "; expected [M]");
  check_dtype("PackedMasks.select", "index", index, at::kLong);
  check_same_device("PackedMasks.select", "index", index, bits.device());
  return {bits.index_select(0, index), areas.index_select(0, index), mass.index_select(0, index)};
}

PackedMasks pack_masks(const at::Tensor& probabilities, double threshold) {
  check_defined("pack_masks", "probabilities", probabilities);
  check<ValueError>(probabilities.dim() == 3, "[pack_masks] probabilities have shape ", probabilities.sizes(),
                    "; expected [N, h, w]");
  check_dtype("pack_masks", "probabilities", probabilities, at::kFloat);
  check_device("pack_masks", probabilities.device());
  check<ValueError>(!std::isnan(threshold), "[pack_masks] threshold is ", threshold, "; use a number");
  const int64_t n = probabilities.size(0), height = probabilities.size(1), width = probabilities.size(2);
  const int64_t pixels = height * width;
  const auto options = probabilities.options().requires_grad(false);
  PackedMasks out{at::empty({n, kernels::mask_words(pixels)}, options.dtype(at::kLong)),
                  at::zeros({n}, options.dtype(at::kLong)), at::zeros({n}, options)};
  if (n == 0 || pixels == 0) return out;
  at::Tensor maps = probabilities.detach();
  if (maps.stride(2) != 1 || maps.stride(1) != width) maps = maps.contiguous();  // masks may lie apart
  const float limit = round_down(threshold);
  if (maps.is_cpu()) {
    pack_cpu(maps, pixels, limit, out);
    return out;
  }
  const c10::DeviceGuard guard(maps.device());
  kernels::pack_masks_cuda(maps.const_data_ptr<float>(), n, pixels, maps.stride(0), limit, words_of(out.bits),
                           out.areas.mutable_data_ptr<int64_t>(), out.mass.mutable_data_ptr<float>(),
                           current_stream(maps));
  return out;
}

at::Tensor mask_iou(const PackedMasks& a, const PackedMasks& b) {
  check_masks("mask_iou", "a", a);
  check_masks("mask_iou", "b", b);
  check<ValueError>(a.bits.size(1) == b.bits.size(1), "[mask_iou] masks of a have ", a.bits.size(1),
                    " words, of b ", b.bits.size(1), "; pack maps of one size");
  check_same_device("mask_iou", "b", b.bits, a.bits.device());
  const int64_t n = a.size(), m = b.size(), step = kernels::kPairTile;
  at::Tensor out = at::empty({n, m}, a.mass.options());
  if (n == 0 || m == 0) return out;
  const c10::DeviceGuard guard(out.device());
  const Packed rows(a), columns(b);
  auto* iou = out.mutable_data_ptr<float>();
  if (!out.is_cpu()) {
    kernels::mask_iou_cuda(rows.view(), n, columns.view(), m, iou, current_stream(out));
    return out;
  }
  const int64_t across = (m + step - 1) / step, down = (n + step - 1) / step;
  for_tiles(across * down, a.bits.size(1), [&](int64_t i) {
    const int64_t row = i / across * step, column = i % across * step;
    const PairTile tile{row, std::min(row + step, n), column, std::min(column + step, m)};
    kernels::iou_tile_cpu(rows.view(), columns.view(), tile, m, iou);
  });
  return out;
}

at::Tensor matrix_nms(const PackedMasks& masks, const at::Tensor& scores, const at::Tensor& labels,
                      const std::string& kernel, double sigma) {
  check_scored("matrix_nms", masks, scores, labels);
  check<ValueError>(kernel == "gaussian" || kernel == "linear", "[matrix_nms] kernel is '", kernel,
                    "'; use 'gaussian' or 'linear'");
  check<ValueError>(sigma > 0 && std::isfinite(sigma), "[matrix_nms] sigma is ", sigma,
                    "; use a positive number");
  const at::Tensor plain = scores.detach().contiguous(), classes = labels.contiguous();
  if (masks.size() == 0) return at::empty({0}, plain.options());
  const kernels::DecayRule rule{
      kernel == "gaussian" ? kernels::DecayKernel::gaussian : kernels::DecayKernel::linear,
      static_cast<float>(sigma)};
  return plain.is_cpu() ? matrix_cpu(masks, plain, classes, rule) : matrix_cuda(masks, plain, classes, rule);
}

at::Tensor mask_nms(const PackedMasks& masks, const at::Tensor& scores, const at::Tensor& labels,
                    double iou_threshold) {
  check_scored("mask_nms", masks, scores, labels);
  check<ValueError>(iou_threshold >= 0 && iou_threshold <= 1, "[mask_nms] iou_threshold is ", iou_threshold,
                    "; use a value in 0..1");
  if (masks.size() == 0) return at::empty({0}, labels.options());
  const at::Tensor order = by_score(scores.detach()), classes = labels.contiguous();
  const float threshold = round_down(iou_threshold);
  return order.is_cpu() ? greedy_cpu(masks, order, classes, threshold)
                        : greedy_cuda(masks, order, classes, threshold);
}

}  // namespace instseg
