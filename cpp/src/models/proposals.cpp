// SPDX-License-Identifier: Apache-2.0
#include "models/proposals.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <map>
#include <vector>

namespace instseg {
namespace {

/** Largest class probability times centerness of the positives, [P] on the CPU. */
at::Tensor scores_of(const TrainStep& step) {
  std::vector<at::Tensor> scores;
  for (const auto& output : step.forward.outputs) {
    scores.push_back(
        output.logits.amax(1).sigmoid().mul(output.centerness.select(1, 0).sigmoid()).flatten(1));
  }
  std::vector<at::Tensor> picked;
  const auto levels = static_cast<int64_t>(scores.size());
  for (int64_t l = 0; l < levels; ++l) {
    const auto here = step.positives.levels.eq(l);  // positives are sorted by level
    picked.push_back(scores[l].index(
        {step.positives.images.masked_select(here), step.positives.positions.masked_select(here)}));
  }
  return at::cat(picked).to(at::kCPU, at::kFloat).contiguous();
}

/** Share of `per_image` that each object of an image gets. */
int64_t share_of_each(int64_t per_image, size_t objects) {
  return std::max<int64_t>(per_image / static_cast<int64_t>(objects), 1);
}

at::Tensor best_of_each_object(const TrainStep& step, int64_t per_image) {
  const auto scores = scores_of(step);
  const auto images = step.positives.images.cpu(), objects = step.gt_index.cpu();
  const float* score = scores.const_data_ptr<float>();
  // image -> object -> its positives
  std::map<int64_t, std::map<int64_t, std::vector<int64_t>>> groups;
  for (int64_t i = 0; i < scores.size(0); ++i) {
    groups[images.const_data_ptr<int64_t>()[i]][objects.const_data_ptr<int64_t>()[i]].push_back(i);
  }
  std::vector<int64_t> kept;
  for (auto& [image, of_object] : groups) {
    const auto limit = static_cast<size_t>(share_of_each(per_image, of_object.size()));
    for (auto& [object, members] : of_object) {
      std::stable_sort(members.begin(), members.end(),
                       [&](int64_t a, int64_t b) { return score[a] > score[b]; });
      kept.insert(kept.end(), members.begin(), members.begin() + std::min(limit, members.size()));
    }
  }
  return at::tensor(kept, at::kLong).to(step.gt_index.device());
}

/** image -> object -> number of its positives */
std::map<int64_t, std::map<int64_t, int64_t>> counts_of(const at::Tensor& images,
                                                        const at::Tensor& gt_index) {
  const auto image = images.cpu(), object = gt_index.cpu();
  std::map<int64_t, std::map<int64_t, int64_t>> counts;
  for (int64_t i = 0; i < image.size(0); ++i) {
    ++counts[image.const_data_ptr<int64_t>()[i]][object.const_data_ptr<int64_t>()[i]];
  }
  return counts;
}

int64_t capped(int64_t count, int64_t limit) { return limit == 0 ? count : std::min(count, limit); }

at::Tensor random_subset(const at::Tensor& index, int64_t limit) {
  if (limit == 0 || index.size(0) <= limit) return index;
  return index.index_select(0, at::randperm(index.size(0), at::kLong).narrow(0, 0, limit).to(index.device()));
}

}  // namespace

at::Tensor choose_proposals(const TrainStep& step, const CondInstConfig& config) {
  const c10::AutoGradMode no_grad(false);
  const auto all = at::arange(step.gt_index.size(0), step.gt_index.options());
  if (config.topk_per_image > 0) return best_of_each_object(step, config.topk_per_image);
  if (config.max_proposals_per_image == 0) return random_subset(all, config.max_proposals);
  std::vector<at::Tensor> chosen;
  for (size_t i = 0; i < step.targets.size(); ++i) {
    const auto own = all.masked_select(step.positives.images.eq(static_cast<int64_t>(i)));
    chosen.push_back(random_subset(own, config.max_proposals_per_image));
  }
  return random_subset(at::cat(chosen), config.max_proposals);
}

int64_t count_proposals(const at::Tensor& images, const at::Tensor& gt_index, const CondInstConfig& config) {
  if (config.topk_per_image == 0 && config.max_proposals_per_image == 0) {
    return capped(gt_index.size(0), config.max_proposals);
  }
  int64_t count = 0;
  for (const auto& [image, of_object] : counts_of(images, gt_index)) {
    int64_t here = 0;
    for (const auto& [object, members] : of_object) {
      here += config.topk_per_image > 0
                  ? std::min(members, share_of_each(config.topk_per_image, of_object.size()))
                  : members;
    }
    count += config.topk_per_image > 0 ? here : capped(here, config.max_proposals_per_image);
  }
  return config.topk_per_image > 0 ? count : capped(count, config.max_proposals);
}

}  // namespace instseg
