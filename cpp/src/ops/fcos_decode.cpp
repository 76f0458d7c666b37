// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/fcos_decode.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <limits>

#include "kernels/fcos_decode.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

using kernels::Candidate;
using kernels::DecodeRule;
using kernels::DecodeView;
using kernels::ThresholdOn;

constexpr const char* kName = "fcos_decode";
constexpr int64_t kChunk = 1 << 16;  // logits per task

DecodeRule parse_rule(const PostConfig& post) {
  DecodeRule rule{};
  rule.threshold = static_cast<float>(post.score_threshold);
  check<ValueError>(post.score_threshold >= 0, "[fcos_decode] score_threshold is ", post.score_threshold,
                    "; use a value >= 0");
  check<ValueError>(post.topk_per_level > 0, "[fcos_decode] topk_per_level is ", post.topk_per_level,
                    "; use a value > 0");
  check<ValueError>(
      post.threshold_on == "class" || post.threshold_on == "product" || post.threshold_on == "score",
      "[fcos_decode] threshold_on '", post.threshold_on, "' is not one of class, product, score");
  check<ValueError>(post.score == "sqrt" || post.score == "product", "[fcos_decode] score '", post.score,
                    "' is not one of sqrt, product");
  check<ValueError>(post.topk_over == "pairs" || post.topk_over == "locations", "[fcos_decode] topk_over '",
                    post.topk_over, "' is not one of pairs, locations");
  rule.on = post.threshold_on == "class"     ? ThresholdOn::class_probability
            : post.threshold_on == "product" ? ThresholdOn::product
                                             : ThresholdOn::score;
  rule.sqrt_score = post.score == "sqrt";
  return rule;
}

void check_map(const char* name, const at::Tensor& map, const at::Tensor& logits, int64_t channels) {
  check_defined(kName, name, map);
  const bool fits = map.dim() == 4 && map.size(0) == logits.size(0) && map.size(1) == channels &&
                    map.size(2) == logits.size(2) && map.size(3) == logits.size(3);
  check<ValueError>(fits, "[fcos_decode] ", name, " has shape ", map.sizes(), " beside logits ",
                    logits.sizes(), "; expected ", channels, " channels and the same batch and map size");
  check<TypeError>(map.scalar_type() == logits.scalar_type(), "[fcos_decode] ", name, " is ",
                   map.scalar_type(), ", logits are ", logits.scalar_type(), "; use one dtype");
  check_same_device(kName, name, map, logits.device());
}

void check_level(const FcosLevel& level, const at::Tensor& first) {
  const at::Tensor& logits = level.logits;
  check_defined(kName, "logits", logits);
  check<ValueError>(logits.dim() == 4 && logits.size(1) > 0, "[fcos_decode] logits have shape ",
                    logits.sizes(), "; expected [B, C, H, W]");
  scalar_kind_of(kName, "logits", logits);
  check_device(kName, logits.device());
  check_same_device(kName, "logits", logits, first.device());
  check<ValueError>(logits.size(0) == first.size(0) && logits.size(1) == first.size(1),
                    "[fcos_decode] levels differ in batch or classes: ", logits.sizes(), " and ",
                    first.sizes());
  check<ValueError>(logits.size(2) * logits.size(3) < (int64_t{1} << 31), "[fcos_decode] map of ",
                    logits.sizes(), " has 2^31 cells or more");
  check_map("reg", level.reg, logits, 4);
  check_map("centerness", level.centerness, logits, 1);
  check<ValueError>(level.grid.height == logits.size(2) && level.grid.width == logits.size(3),
                    "[fcos_decode] grid of ", level.grid.height, " x ", level.grid.width,
                    " cells for logits ", logits.sizes());
}

// Memory in one of the two layouts that the kernels scan; other layouts are copied.
bool is_channels_last(const at::Tensor& logits) {
  return logits.size(1) > 1 && logits.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         !logits.is_contiguous();
}

const void* at_image(const at::Tensor& map, int64_t image) {
  return static_cast<const char*>(map.const_data_ptr()) + image * map.stride(0) * map.element_size();
}

// View of one image; `logits` is the level's logits in a dense layout.
DecodeView view_of(const FcosLevel& level, const at::Tensor& logits, int64_t image, const ImageSize* clip) {
  DecodeView view{};
  view.logits = at_image(logits, image);
  view.reg = at_image(level.reg, image);
  view.centerness = at_image(level.centerness, image);
  view.kind = scalar_kind_of(kName, "logits", logits);
  view.channels_last = is_channels_last(logits);
  view.classes = logits.size(1);
  view.height = logits.size(2);
  view.width = logits.size(3);
  view.reg_channel = level.reg.stride(1);
  view.reg_row = level.reg.stride(2);
  view.reg_column = level.reg.stride(3);
  view.centerness_row = level.centerness.stride(2);
  view.centerness_column = level.centerness.stride(3);
  view.step_x = level.grid.step_x;
  view.step_y = level.grid.step_y;
  view.offset = level.grid.offset;
  view.unit = static_cast<float>(level.unit);
  view.clip_width = clip ? static_cast<float>(clip->width) : -1.0f;
  view.clip_height = clip ? static_cast<float>(clip->height) : -1.0f;
  return view;
}

FcosCandidates empty_candidates(int64_t count, at::TensorOptions options) {
  const auto floats = options.dtype(at::kFloat), longs = options.dtype(at::kLong);
  return {at::empty({count, 4}, floats), at::empty({count}, floats), at::empty({count}, longs),
          at::empty({count}, longs), at::empty({count}, longs)};
}

// One image and level on its way through the CPU passes.
struct LevelWork {
  DecodeView view;
  std::vector<float> centerness;
  std::vector<char> allowed;                  // empty: every cell
  std::vector<std::vector<Candidate>> parts;  // one per chunk of the logits
  std::vector<Candidate> candidates;

  int64_t size() const { return view.classes * view.cells(); }
};

void find_all(std::vector<LevelWork>& works, const DecodeRule& rule, const PostConfig& post) {
  const auto count = static_cast<int64_t>(works.size());
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      LevelWork& work = works[i];
      work.centerness = kernels::centerness_cpu(work.view);
      if (post.topk_over == "locations" && work.view.cells() > post.topk_per_level) {
        work.allowed = kernels::best_cells_cpu(work.view, work.centerness, post.topk_per_level);
      }
    }
  });
  std::vector<std::pair<int64_t, int64_t>> tasks;  // work, chunk
  for (int64_t i = 0; i < count; ++i) {
    works[i].parts.resize((works[i].size() + kChunk - 1) / kChunk);
    for (size_t part = 0; part < works[i].parts.size(); ++part) tasks.emplace_back(i, part);
  }
  at::parallel_for(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      LevelWork& work = works[tasks[i].first];
      const int64_t part = tasks[i].second, first = part * kChunk;
      kernels::find_candidates_cpu(work.view, rule, work.centerness.data(),
                                   work.allowed.empty() ? nullptr : work.allowed.data(), first,
                                   std::min(work.size(), first + kChunk), work.parts[part]);
    }
  });
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      LevelWork& work = works[i];
      for (const auto& part : work.parts)
        work.candidates.insert(work.candidates.end(), part.begin(), part.end());
      const bool pairs = post.topk_over == "pairs";
      kernels::keep_best_cpu(work.candidates, pairs ? post.topk_per_level : work.size());
    }
  });
}

FcosCandidates collect(const LevelWork* works, size_t levels, const DecodeRule& rule,
                       at::TensorOptions options) {
  int64_t total = 0, row = 0;
  for (size_t l = 0; l < levels; ++l) total += static_cast<int64_t>(works[l].candidates.size());
  FcosCandidates out = empty_candidates(total, options);
  for (size_t l = 0; l < levels; ++l) {
    kernels::decode_boxes_cpu(
        works[l].view, rule, works[l].candidates, out.boxes.mutable_data_ptr<float>() + 4 * row,
        out.scores.mutable_data_ptr<float>() + row, out.labels.mutable_data_ptr<int64_t>() + row,
        out.positions.mutable_data_ptr<int64_t>() + row);
    const auto count = static_cast<int64_t>(works[l].candidates.size());
    std::fill_n(out.levels.mutable_data_ptr<int64_t>() + row, count, static_cast<int64_t>(l));
    row += count;
  }
  return out;
}

// Cells allowed under topk_over = "locations", [H, W] bool; undefined: all.
at::Tensor best_cells_cuda(const FcosLevel& level, const at::Tensor& logits, int64_t image, int64_t count) {
  const int64_t cells = logits.size(2) * logits.size(3);
  if (cells <= count) return {};
  const double lowest = -std::numeric_limits<double>::infinity();  // amax would pass one NaN on
  const at::Tensor best = logits.select(0, image).to(at::kFloat).nan_to_num(lowest).amax(0).sigmoid();
  const at::Tensor quality = level.centerness.select(0, image).select(0, 0).to(at::kFloat).sigmoid();
  const at::Tensor rank = (best * quality).nan_to_num(-1.0).reshape({cells});
  const at::Tensor order = rank.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
  at::Tensor allowed = at::zeros({cells}, logits.options().dtype(at::kBool));
  return allowed.index_fill_(0, order.narrow(0, 0, count), true);
}

// The best `count` of the candidates by product, in the order of their keys.
void keep_best_cuda(at::Tensor& products, at::Tensor& keys, int64_t count) {
  const at::Tensor by_key = keys.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  keys = keys.index_select(0, by_key);
  products = products.index_select(0, by_key);
  if (keys.size(0) <= count) return;
  const at::Tensor by_product = products.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor best = std::get<0>(by_product.narrow(0, 0, count).sort());
  keys = keys.index_select(0, best);
  products = products.index_select(0, best);
}

// One image: all levels write their candidates, then one wait for the counts, then top-k and boxes.
FcosCandidates decode_image_cuda(const std::vector<FcosLevel>& levels, const std::vector<at::Tensor>& logits,
                                 int64_t image, const ImageSize* clip, const DecodeRule& rule,
                                 const PostConfig& post) {
  const auto options = logits[0].options();
  const auto count = static_cast<int64_t>(levels.size());
  const bool pairs = post.topk_over == "pairs";
  void* stream = current_stream(logits[0]);
  const at::Tensor counts = at::zeros({count}, options.dtype(at::kInt));
  std::vector<at::Tensor> products, keys;
  std::vector<DecodeView> views;
  for (int64_t l = 0; l < count; ++l) {
    views.push_back(view_of(levels[l], logits[l], image, clip));
    const int64_t capacity = views[l].classes * views[l].cells();
    const at::Tensor allowed =
        pairs ? at::Tensor() : best_cells_cuda(levels[l], logits[l], image, post.topk_per_level);
    products.push_back(at::empty({capacity}, options.dtype(at::kFloat)));
    keys.push_back(at::empty({capacity}, options.dtype(at::kLong)));
    kernels::find_candidates_cuda(views[l], rule,
                                  allowed.defined() ? allowed.const_data_ptr<bool>() : nullptr,
                                  products[l].mutable_data_ptr<float>(), keys[l].mutable_data_ptr<int64_t>(),
                                  counts.mutable_data_ptr<int32_t>() + l, stream);
  }
  const at::Tensor found = counts.cpu();
  int64_t total = 0, row = 0;
  for (int64_t l = 0; l < count; ++l) {
    const int64_t size = found.const_data_ptr<int32_t>()[l];
    products[l] = products[l].narrow(0, 0, size);
    keys[l] = keys[l].narrow(0, 0, size);
    if (size > 0) keep_best_cuda(products[l], keys[l], pairs ? post.topk_per_level : size);
    total += keys[l].size(0);
  }
  FcosCandidates out = empty_candidates(total, options);
  for (int64_t l = 0; l < count; ++l) {
    const int64_t size = keys[l].size(0);
    kernels::decode_boxes_cuda(
        views[l], rule, products[l].const_data_ptr<float>(), keys[l].const_data_ptr<int64_t>(), size,
        out.boxes.mutable_data_ptr<float>() + 4 * row, out.scores.mutable_data_ptr<float>() + row,
        out.labels.mutable_data_ptr<int64_t>() + row, out.positions.mutable_data_ptr<int64_t>() + row,
        stream);
    out.levels.narrow(0, row, size).fill_(l);
    row += size;
  }
  return out;
}

}  // namespace

std::vector<FcosCandidates> fcos_decode(const std::vector<FcosLevel>& levels, const PostConfig& post,
                                        const std::vector<ImageSize>& sizes) {
  const DecodeRule rule = parse_rule(post);
  check<ValueError>(!levels.empty(), "[fcos_decode] no levels");
  std::vector<at::Tensor> logits;
  for (const FcosLevel& level : levels) {
    check_level(level, levels[0].logits);
    logits.push_back(is_channels_last(level.logits) ? level.logits : level.logits.contiguous());
  }
  const int64_t images = logits[0].size(0);
  check<ValueError>(!post.clip_before_nms || static_cast<int64_t>(sizes.size()) == images, "[fcos_decode] ",
                    sizes.size(), " sizes for ", images, " images");
  const auto clip = [&](int64_t image) { return post.clip_before_nms ? &sizes[image] : nullptr; };
  std::vector<FcosCandidates> out;
  if (logits[0].is_cuda()) {
    const c10::DeviceGuard guard(logits[0].device());
    for (int64_t i = 0; i < images; ++i) {
      out.push_back(decode_image_cuda(levels, logits, i, clip(i), rule, post));
    }
    return out;
  }
  std::vector<LevelWork> works;
  for (int64_t i = 0; i < images; ++i) {
    for (size_t l = 0; l < levels.size(); ++l) {
      works.emplace_back().view = view_of(levels[l], logits[l], i, clip(i));
    }
  }
  find_all(works, rule, post);
  for (int64_t i = 0; i < images; ++i) {
    out.push_back(collect(&works[i * levels.size()], levels.size(), rule, logits[0].options()));
  }
  return out;
}

}  // namespace instseg
