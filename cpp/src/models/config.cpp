// SPDX-License-Identifier: Apache-2.0
#include "instseg/config.h"

#include <cmath>
#include <initializer_list>
#include <limits>
#include <unordered_set>

#include "instseg/error.h"
#include "io/closest.h"
#include "io/strict_json.h"
#include "models/config_json.h"

namespace instseg {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Where a struct sits: messages start with "[type] prefix.field: ".
struct Place {
  std::string type;
  std::string prefix;

  template <class... Parts>
  void require(bool ok, const std::string& field, const Parts&... parts) const {
    if (!ok) throw ValueError(join("[", type, "] ", prefix, field, ": ", parts...));
  }

  void one_of(const char* field, const std::string& value, const std::vector<std::string>& choices) const {
    for (const std::string& choice : choices) {
      if (value == choice) return;
    }
    require(false, field, "'", value, "' is not one of ", comma_list(choices));
  }

  void within(const std::string& field, int64_t value, int64_t low, int64_t high) const {
    require(value >= low && value <= high, field, value, " is not within ", low, "..", high);
  }

  // NaN fails every comparison, so it is refused too.
  void within(const std::string& field, double value, double low, double high) const {
    require(value >= low && value <= high && std::isfinite(value), field, value, " is not within ", low, "..",
            high);
  }

  void at_least(const std::string& field, double value, double low) const {
    require(value >= low && std::isfinite(value), field, value, " is not a finite number >= ", low);
  }
};

void check_fields(const InputConfig& c, const Place& at) {
  at.one_of("channel_order", c.channel_order, {"bgr", "rgb"});
  at.require(c.mean.size() == 3, "mean", "has ", c.mean.size(), " values, expected 3");
  at.require(c.std.size() == 3, "std", "has ", c.std.size(), " values, expected 3");
  for (size_t i = 0; i < 3; ++i) {
    at.require(std::isfinite(c.mean[i]), join("mean[", i, "]"), c.mean[i], " is not a finite number");
    at.require(c.std[i] > 0 && c.std[i] < kInfinity, join("std[", i, "]"), c.std[i],
               " is not a positive number");
  }
  at.one_of("resize", c.resize, {"pillow", "opencv", "float"});
  at.within("short_side", c.short_side, 1, 32768);
  at.within("long_side", c.long_side, 1, 32768);
  at.require(c.long_side >= c.short_side, "long_side", c.long_side, " is less than short_side ",
             c.short_side);
  at.within("size_divisor", c.size_divisor, 32, 4096);
  at.require(c.size_divisor % 32 == 0, "size_divisor", c.size_divisor,
             " is not a multiple of 32, the stride of the coarsest backbone stage");
}

void check_fields(const BackboneConfig& c, const Place& at) {
  at.one_of("name", c.name,
            {"resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0", "efficientnet_lite1",
             "efficientnet_lite2"});
  at.one_of("norm", c.norm, {"frozen_bn", "bn", "bn_eval"});
  at.within("freeze", c.freeze, 0, c.name.starts_with("resnet") ? 5 : 8);
}

void check_fields(const NeckConfig& c, const Place& at) {
  at.one_of("name", c.name, {"fpn"});
  at.within("channels", c.channels, 1, 4096);
  at.within("min_level", c.min_level, 2, 5);
  at.within("max_level", c.max_level, 5, 7);
  at.one_of("extra", c.extra, {"conv", "pool"});
  at.one_of("norm", c.norm, {"none", "bn"});
}

void check_fields(const HeadConfig& c, const Place& at) {
  at.within("share_convs", c.share_convs, 0, 32);
  at.within("cls_convs", c.cls_convs, 0, 32);
  at.within("box_convs", c.box_convs, 0, 32);
  at.one_of("norm", c.norm, {"gn", "bn", "none"});
  at.one_of("centerness_on", c.centerness_on, {"box", "cls"});
  at.one_of("box_transform", c.box_transform, {"relu", "exp"});
  at.one_of("quality", c.quality, {"centerness", "iou"});
  at.one_of("location_offset", c.location_offset, {"half", "none"});
  at.require(c.prior_prob > 0 && c.prior_prob < 1, "prior_prob", c.prior_prob, " is not between 0 and 1");
}

void check_fields(const TargetConfig& c, const Place& at) {
  at.one_of("rule", c.rule, {"fcos", "torchvision"});
  for (size_t i = 0; i < c.sizes_of_interest.size(); ++i) {
    const int64_t previous = i == 0 ? 0 : c.sizes_of_interest[i - 1];
    at.require(c.sizes_of_interest[i] > previous, join("sizes_of_interest[", i, "]"), c.sizes_of_interest[i],
               " is not greater than ", previous);
  }
  at.at_least("center_radius", c.center_radius, 0);
  at.require(c.rule != "torchvision" || c.center_radius > 0, "center_radius", c.center_radius,
             " is not positive, as rule torchvision needs");
}

void check_fields(const LossConfig& c, const Place& at) {
  at.within("focal_alpha", c.focal_alpha, 0.0, 1.0);
  at.at_least("focal_gamma", c.focal_gamma, 0);
  at.one_of("box_loss", c.box_loss, {"giou", "iou", "linear_iou"});
  at.at_least("iou_smoothing", c.iou_smoothing, 0);
  at.one_of("cls_normalizer", c.cls_normalizer, {"positives", "moving", "all"});
}

void check_fields(const PostConfig& c, const Place& at) {
  at.within("score_threshold", c.score_threshold, 0.0, 1.0);
  at.one_of("threshold_on", c.threshold_on, {"class", "product", "score"});
  at.one_of("score", c.score, {"sqrt", "product"});
  at.one_of("topk_over", c.topk_over, {"pairs", "locations"});
  at.within("topk_per_level", c.topk_per_level, 1, 1'000'000);
  at.within("nms_threshold", c.nms_threshold, 0.0, 1.0);
  at.within("max_detections", c.max_detections, 1, 1'000'000);
}

void check_fields(const BoxInstConfig& c, const Place& at) {
  at.within("pairwise_size", c.pairwise_size, 3, 15);
  at.require(c.pairwise_size % 2 == 1, "pairwise_size", c.pairwise_size, " is not odd");
  at.within("pairwise_dilation", c.pairwise_dilation, 1, 64);
  at.within("color_threshold", c.color_threshold, 0.0, 1.0);
  at.within("warmup_iterations", c.warmup_iterations, 0, 1'000'000'000);
  at.within("bottom_pixels_removed", c.bottom_pixels_removed, 0, 32768);
}

void check_fields(const CondInstConfig& c, const Place& at) {
  at.within("mask_channels", c.mask_channels, 0, 32);
  at.within("branch_channels", c.branch_channels, 1, 4096);
  at.within("branch_convs", c.branch_convs, 0, 32);
  at.one_of("branch_norm", c.branch_norm, {"bn", "gn", "none"});
  at.within("head_depth", c.head_depth, 1, 8);
  at.within("head_width", c.head_width, 1, 32);
  at.one_of("coordinates", c.coordinates, {"relative", "absolute", "none"});
  at.require(c.mask_channels > 0 || c.coordinates != "none", "coordinates",
             "'none' needs mask_channels > 0: the mask head would have no input");
  at.require(c.output_stride == 8 || c.output_stride == 4 || c.output_stride == 2, "output_stride",
             c.output_stride, " is not one of 8, 4, 2");
  at.one_of("supervision", c.supervision, {"masks", "boxes"});
  at.require(!c.semantic || c.supervision == "masks", "semantic",
             "needs supervision masks: its targets are made of them");
  at.within("max_proposals", c.max_proposals, 0, 1'000'000);
  at.within("max_proposals_per_image", c.max_proposals_per_image, 0, 1'000'000);
  at.within("topk_per_image", c.topk_per_image, 0, 1'000'000);
  at.require(c.topk_per_image == 0 || (c.max_proposals == 0 && c.max_proposals_per_image == 0),
             "topk_per_image", c.topk_per_image,
             " excludes max_proposals and max_proposals_per_image; set them to 0");
  at.require(c.dice_eps > 0 && std::isfinite(c.dice_eps), "dice_eps", c.dice_eps,
             " is not a positive number");
  at.require(c.branch_norm != "gn" || c.branch_channels % 32 == 0, "branch_norm",
             "'gn' has 32 groups, but branch_channels ", c.branch_channels, " is not a multiple of 32");
  check_fields(c.boxinst, Place{at.type, at.prefix + "boxinst."});
}

void check_fields(const BlendMaskConfig& c, const Place& at) {
  at.one_of("bottom", c.bottom, {"protonet", "deeplab_pyramid", "deeplab_backbone"});
  at.within("bases", c.bases, 1, 64);
  at.within("branch_channels", c.branch_channels, 1, 4096);
  at.within("branch_convs", c.branch_convs, 0, 32);
  at.one_of("branch_norm", c.branch_norm, {"bn", "gn", "none"});
  at.within("attention_size", c.attention_size, 1, 256);
  at.within("mask_size", c.mask_size, 2, 512);
  at.at_least("semantic_weight", c.semantic_weight, 0);
  at.one_of("paste", c.paste, {"clipped", "whole"});
  at.require(c.branch_norm != "gn" || c.bottom == "protonet", "branch_norm",
             "'gn' has 32 groups, but the low-level map of bottom ", c.bottom,
             " has 48 channels; use bn or none");
  at.require(c.branch_norm != "gn" || c.branch_channels % 32 == 0, "branch_norm",
             "'gn' has 32 groups, but branch_channels ", c.branch_channels, " is not a multiple of 32");
}

// One value per level of family solo.
constexpr size_t kSoloLevels = 5;

void check_levels(const SoloConfig& c, const Place& at) {
  const auto five = [&](const char* field, size_t size) {
    at.require(size == kSoloLevels, field, "has ", size, " values, expected ", kSoloLevels,
               ", one per level");
  };
  five("grids", c.grids.size());
  five("min_scales", c.min_scales.size());
  five("max_scales", c.max_scales.size());
  for (size_t i = 0; i < kSoloLevels; ++i) {
    at.within(join("grids[", i, "]"), c.grids[i], 1, 512);
    at.at_least(join("min_scales[", i, "]"), c.min_scales[i], 0);
    at.at_least(join("max_scales[", i, "]"), c.max_scales[i], c.min_scales[i]);
  }
}

void check_fields(const SoloConfig& c, const Place& at) {
  at.one_of("head", c.head, {"solo", "decoupled", "decoupled_light", "solov2"});
  check_levels(c, at);
  at.within("center_region", c.center_region, 0.0, 1.0);
  at.within("convs", c.convs, 1, 32);
  for (const auto& [field, value] : {std::pair{"channels", c.channels},
                                     {"mask_channels", c.mask_channels},
                                     {"branch_channels", c.branch_channels}}) {
    at.within(field, value, 1, 4096);
    at.require(value % 32 == 0, field, value, " is not a multiple of 32, the groups of its norm");
  }
  at.one_of("mask_frame", c.mask_frame, {"padded", "image"});
  at.at_least("mask_weight", c.mask_weight, 0);
  at.require(c.dice_eps > 0 && std::isfinite(c.dice_eps), "dice_eps", c.dice_eps,
             " is not a positive number");
  at.within("max_candidates", c.max_candidates, 1, 1'000'000);
  at.one_of("nms", c.nms, {"matrix", "mask"});
  at.one_of("nms_kernel", c.nms_kernel, {"gaussian", "linear"});
  at.require(c.nms_sigma > 0 && std::isfinite(c.nms_sigma), "nms_sigma", c.nms_sigma,
             " is not a positive number");
  at.within("update_threshold", c.update_threshold, 0.0, 1.0);
}

void check_classes(const ModelConfig& c, const Place& at) {
  const auto count = static_cast<size_t>(c.num_classes);
  at.require(c.class_names.empty() || c.class_names.size() == count, "class_names", "has ",
             c.class_names.size(), " names, num_classes is ", c.num_classes);
  std::unordered_set<std::string> names;
  for (const std::string& name : c.class_names) {
    at.require(!name.empty(), "class_names", "contains an empty name");
    // Published label maps fill the gaps of their numbering with this name.
    at.require(name == "N/A" || names.insert(name).second, "class_names", "'", name, "' appears twice");
  }
  at.require(c.category_ids.empty() || c.category_ids.size() == count, "category_ids", "has ",
             c.category_ids.size(), " ids, num_classes is ", c.num_classes);
  std::unordered_set<int64_t> ids;
  for (int64_t id : c.category_ids) at.require(ids.insert(id).second, "category_ids", id, " appears twice");
}

// Fields that must fit each other.
void check_together(const ModelConfig& c, const Place& at) {
  if (c.family == "solo") {
    at.require(c.neck.min_level == 2, "neck.min_level", c.neck.min_level, " must be 2 for family solo");
    at.require(c.neck.max_level == 6, "neck.max_level", c.neck.max_level, " must be 6 for family solo");
    return;
  }
  const auto levels = static_cast<size_t>(c.neck.max_level - c.neck.min_level + 1);
  at.require(c.targets.rule != "fcos" || c.targets.sizes_of_interest.size() + 1 == levels,
             "targets.sizes_of_interest", "has ", c.targets.sizes_of_interest.size(),
             " bounds, but neck levels ", c.neck.min_level, "..", c.neck.max_level, " need ", levels - 1);
  at.require(c.head.norm != "gn" || c.neck.channels % 32 == 0, "head.norm",
             "'gn' has 32 groups, but neck.channels ", c.neck.channels, " is not a multiple of 32");
  if (c.family == "fcos") return;
  at.require(c.neck.min_level == 3, "neck.min_level", c.neck.min_level, " must be 3 for family ", c.family,
             ", whose masks are made of P3, P4 and P5");
  at.require(c.head.location_offset == "half", "head.location_offset", "must be half for family ", c.family);
  at.require(c.family != "condinst" || c.targets.rule == "fcos", "targets.rule",
             "must be fcos for family condinst");
  at.require(c.family != "blendmask" || c.head.quality == "centerness", "head.quality",
             "must be centerness for family blendmask, whose mask loss is weighted by it");
}

void check_fields(const ModelConfig& c, const Place& at) {
  at.one_of("family", c.family, {"fcos", "condinst", "blendmask", "solo"});
  at.within("num_classes", c.num_classes, 1, 100'000);
  check_classes(c, at);
  visit_fields(c, [&](const char* name, const auto& value, const char*) {
    if constexpr (ConfigStruct<std::remove_cvref_t<decltype(value)>>) {
      check_fields(value, Place{at.type, join(at.prefix, name, ".")});
    }
  });
  check_together(c, at);
}

template <ConfigStruct C>
void check_alone(const C& config) {
  check_fields(config, Place{ConfigTraits<C>::name, ""});
}

}  // namespace

void InputConfig::check() const { check_alone(*this); }
void BackboneConfig::check() const { check_alone(*this); }
void NeckConfig::check() const { check_alone(*this); }
void HeadConfig::check() const { check_alone(*this); }
void TargetConfig::check() const { check_alone(*this); }
void LossConfig::check() const { check_alone(*this); }
void PostConfig::check() const { check_alone(*this); }
void BoxInstConfig::check() const { check_alone(*this); }
void CondInstConfig::check() const { check_alone(*this); }
void BlendMaskConfig::check() const { check_alone(*this); }
void SoloConfig::check() const { check_alone(*this); }
void ModelConfig::check() const { check_alone(*this); }

std::string ModelConfig::to_json(int indent) const {
  return dump_json(config_to_json(*this), "[ModelConfig::to_json] ", indent);
}

ModelConfig ModelConfig::from_json(const std::string& text) {
  ModelConfig config;
  json_to_config(parse_json(text, "[ModelConfig::from_json] "), config, "ModelConfig");
  return config;
}

void throw_json_type(const std::string& type, const std::string& path, const char* expected,
                     const ConfigJson& got) {
  std::string shown = got.dump(-1, ' ', true, ConfigJson::error_handler_t::replace);
  if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
  throw ValueError(
      join("[", type, "] ", path, ": expected ", expected, ", got ", got.type_name(), " ", shown));
}

}  // namespace instseg
