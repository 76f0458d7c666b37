// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "instseg/config.h"

/**
 * The only list of config fields, in declaration order. JSON, the Python constructors, repr, dictionaries and
 * the reference page of the documentation are generated from it. A field added to config.h is added here.
 */
namespace instseg {

/** One field of config struct C: its name, its member, and a line of documentation with unit and choices. */
template <class C, class M>
struct ConfigField {
  const char* name;
  M C::* member;
  const char* doc;
};

template <class C, class M>
ConfigField(const char*, M C::*, const char*) -> ConfigField<C, M>;

/** Name, one-line description and fields of each config struct. */
template <class C>
struct ConfigTraits;

template <class C>
concept ConfigStruct = requires { ConfigTraits<std::remove_cv_t<C>>::name; };

template <>
struct ConfigTraits<InputConfig> {
  static constexpr const char* name = "InputConfig";
  static constexpr const char* doc = "How uint8 images become network input.";
  static constexpr auto fields = std::tuple{
      ConfigField{"channel_order", &InputConfig::channel_order,
                  "order of the channels the network was trained with: bgr or rgb"},
      ConfigField{"mean", &InputConfig::mean,
                  "3 values in channel_order, 0..255, subtracted from the pixels"},
      ConfigField{"std", &InputConfig::std, "3 values in channel_order, 0..255, divide the pixels"},
      ConfigField{"resize", &InputConfig::resize,
                  "kernel and rounding rule of resizing: pillow, opencv or float"},
      ConfigField{"short_side", &InputConfig::short_side, "px, shorter image side at inference"},
      ConfigField{"long_side", &InputConfig::long_side, "px, upper bound of the longer side at inference"},
      ConfigField{"size_divisor", &InputConfig::size_divisor,
                  "px, padded height and width are multiples of it (itself a multiple of 32)"},
  };
};

template <>
struct ConfigTraits<BackboneConfig> {
  static constexpr const char* name = "BackboneConfig";
  static constexpr const char* doc = "The bottom-up network.";
  static constexpr auto fields = std::tuple{
      ConfigField{"name", &BackboneConfig::name,
                  "resnet18, resnet34, resnet50, resnet101, efficientnet_lite0, efficientnet_lite1 or "
                  "efficientnet_lite2"},
      ConfigField{"norm", &BackboneConfig::norm,
                  "frozen_bn, bn, or bn_eval (fixed statistics, trained affine)"},
      ConfigField{"freeze", &BackboneConfig::freeze,
                  "leading stages without gradients: 0 none, 1 stem, 2 stem and next stage, ..."},
      ConfigField{"stride_in_1x1", &BackboneConfig::stride_in_1x1,
                  "stride of a bottleneck in its first 1x1 (MSRA) instead of its 3x3 (torchvision)"},
  };
};

template <>
struct ConfigTraits<NeckConfig> {
  static constexpr const char* name = "NeckConfig";
  static constexpr const char* doc = "The feature pyramid.";
  static constexpr auto fields = std::tuple{
      ConfigField{"name", &NeckConfig::name, "fpn"},
      ConfigField{"channels", &NeckConfig::channels, "channels of every output level"},
      ConfigField{"min_level", &NeckConfig::min_level, "finest level, log2 of its stride: 3 is stride 8"},
      ConfigField{"max_level", &NeckConfig::max_level,
                  "coarsest level, 5..7; levels above 5 are derived from P5"},
      ConfigField{"extra", &NeckConfig::extra,
                  "levels above 5: conv (3x3 stride 2; ReLU before P7) or pool (decimation)"},
      ConfigField{"norm", &NeckConfig::norm, "none or bn"},
  };
};

template <>
struct ConfigTraits<HeadConfig> {
  static constexpr const char* name = "HeadConfig";
  static constexpr const char* doc = "The FCOS head, shared by all pyramid levels.";
  static constexpr auto fields = std::tuple{
      ConfigField{"share_convs", &HeadConfig::share_convs, "convolutions before the two towers"},
      ConfigField{"cls_convs", &HeadConfig::cls_convs, "convolutions of the classification tower"},
      ConfigField{"box_convs", &HeadConfig::box_convs, "convolutions of the box tower"},
      ConfigField{"norm", &HeadConfig::norm, "gn (32 groups), bn (one per level) or none"},
      ConfigField{"scale", &HeadConfig::scale, "a learnable factor per level on the box regression"},
      ConfigField{"centerness_on", &HeadConfig::centerness_on, "tower that feeds the centerness: box or cls"},
      ConfigField{"box_transform", &HeadConfig::box_transform, "makes distances positive: relu or exp"},
      ConfigField{"stride_units", &HeadConfig::stride_units,
                  "regression in units of the level's stride instead of pixels"},
      ConfigField{"quality", &HeadConfig::quality,
                  "what the centerness branch is trained to predict: centerness or iou"},
      ConfigField{"location_offset", &HeadConfig::location_offset,
                  "image position of cell i: half is i*s + s/2, none is i*(padded size / map size)"},
      ConfigField{"prior_prob", &HeadConfig::prior_prob, "initial foreground probability, 0..1"},
  };
};

template <>
struct ConfigTraits<TargetConfig> {
  static constexpr const char* name = "TargetConfig";
  static constexpr const char* doc = "Assignment of ground truth to locations.";
  static constexpr auto fields = std::tuple{
      ConfigField{"rule", &TargetConfig::rule,
                  "fcos, or torchvision (strict bounds, sizes of 4 to 8 strides)"},
      ConfigField{"sizes_of_interest", &TargetConfig::sizes_of_interest,
                  "px, increasing bounds between levels, one fewer than levels; used by rule fcos"},
      ConfigField{"center_radius", &TargetConfig::center_radius,
                  "strides around the box center that are positive; 0: anywhere inside the box"},
  };
};

template <>
struct ConfigTraits<LossConfig> {
  static constexpr const char* name = "LossConfig";
  static constexpr const char* doc = "Losses of FCOS.";
  static constexpr auto fields = std::tuple{
      ConfigField{"focal_alpha", &LossConfig::focal_alpha, "weight of positives in the focal loss, 0..1"},
      ConfigField{"focal_gamma", &LossConfig::focal_gamma, "focusing exponent of the focal loss"},
      ConfigField{"box_loss", &LossConfig::box_loss, "giou, iou (-log IoU) or linear_iou (1 - IoU)"},
      ConfigField{"iou_smoothing", &LossConfig::iou_smoothing,
                  "added to intersection and union of the IoU term, in squared regression units"},
      ConfigField{"weight_by_centerness", &LossConfig::weight_by_centerness,
                  "box loss weighted by the centerness target"},
      ConfigField{"cls_normalizer", &LossConfig::cls_normalizer,
                  "positives, moving (running mean of positives) or all (every location)"},
  };
};

template <>
struct ConfigTraits<PostConfig> {
  static constexpr const char* name = "PostConfig";
  static constexpr const char* doc = "From head outputs to detections.";
  static constexpr auto fields = std::tuple{
      ConfigField{"score_threshold", &PostConfig::score_threshold,
                  "0..1, candidates have a value above it; threshold_on names the value"},
      ConfigField{"threshold_on", &PostConfig::threshold_on,
                  "class (probability p), product (p * centerness) or score (the reported score)"},
      ConfigField{"score", &PostConfig::score, "reported score: sqrt of p * centerness, or product"},
      ConfigField{"topk_over", &PostConfig::topk_over,
                  "candidates are pairs (location, class), or locations (ranked by their best class)"},
      ConfigField{"topk_per_level", &PostConfig::topk_per_level, "most candidates per level and image"},
      ConfigField{"clip_before_nms", &PostConfig::clip_before_nms,
                  "clip boxes to the network image before suppression"},
      ConfigField{"nms_threshold", &PostConfig::nms_threshold,
                  "IoU above which the lower score of a class is dropped"},
      ConfigField{"nms_class_offset", &PostConfig::nms_class_offset,
                  "one suppression over class-shifted boxes instead of one per class"},
      ConfigField{"max_detections", &PostConfig::max_detections, "most detections per image"},
      ConfigField{"keep_ties", &PostConfig::keep_ties, "keep all detections that tie with the last one"},
  };
};

template <>
struct ConfigTraits<BoxInstConfig> {
  static constexpr const char* name = "BoxInstConfig";
  static constexpr const char* doc = "Training of CondInst masks from boxes alone.";
  static constexpr auto fields = std::tuple{
      ConfigField{"pairwise_size", &BoxInstConfig::pairwise_size, "odd side of the pairwise neighbourhood"},
      ConfigField{"pairwise_dilation", &BoxInstConfig::pairwise_dilation, "mask pixels between neighbours"},
      ConfigField{"color_threshold", &BoxInstConfig::color_threshold,
                  "color similarity, 0..1, from which two pixels should have one label"},
      ConfigField{"warmup_iterations", &BoxInstConfig::warmup_iterations,
                  "iterations over which the pairwise term grows to its weight"},
      ConfigField{"bottom_pixels_removed", &BoxInstConfig::bottom_pixels_removed,
                  "px of the original image at its bottom whose colors are not used"},
  };
};

template <>
struct ConfigTraits<CondInstConfig> {
  static constexpr const char* name = "CondInstConfig";
  static constexpr const char* doc = "Masks by per-instance convolutions; read by family condinst.";
  static constexpr auto fields = std::tuple{
      ConfigField{"mask_channels", &CondInstConfig::mask_channels,
                  "channels of the mask features; 0: the mask head sees coordinates alone"},
      ConfigField{"branch_channels", &CondInstConfig::branch_channels, "channels of the mask branch"},
      ConfigField{"branch_convs", &CondInstConfig::branch_convs,
                  "3x3 convolutions of the mask branch after the fusion of P3, P4 and P5"},
      ConfigField{"branch_norm", &CondInstConfig::branch_norm, "norm of the mask branch: bn, gn or none"},
      ConfigField{"head_depth", &CondInstConfig::head_depth, "layers of the dynamic mask head, 1..8"},
      ConfigField{"head_width", &CondInstConfig::head_width, "channels between its layers, 1..32"},
      ConfigField{"coordinates", &CondInstConfig::coordinates,
                  "further inputs of the mask head: relative (to the instance), absolute or none"},
      ConfigField{"output_stride", &CondInstConfig::output_stride, "px per mask pixel: 8, 4 or 2"},
      ConfigField{"semantic", &CondInstConfig::semantic, "an auxiliary semantic task in training"},
      ConfigField{"supervision", &CondInstConfig::supervision,
                  "what masks are learned from: masks, or boxes (BoxInst)"},
      ConfigField{"max_proposals", &CondInstConfig::max_proposals,
                  "positive locations of a batch with a mask loss, drawn at random; 0: all"},
      ConfigField{"max_proposals_per_image", &CondInstConfig::max_proposals_per_image,
                  "the same of each image; 0: all"},
      ConfigField{"topk_per_image", &CondInstConfig::topk_per_image,
                  "best scored positives of an image, shared by its objects; 0: no choice by score"},
      ConfigField{"dice_eps", &CondInstConfig::dice_eps, "added to the denominator of the dice loss"},
      ConfigField{"boxinst", &CondInstConfig::boxinst, "used with supervision boxes"},
  };
};

template <>
struct ConfigTraits<BlendMaskConfig> {
  static constexpr const char* name = "BlendMaskConfig";
  static constexpr const char* doc = "Masks blended from bases; read by family blendmask.";
  static constexpr auto fields = std::tuple{
      ConfigField{"bottom", &BlendMaskConfig::bottom,
                  "bottom module: protonet, deeplab_pyramid (P3 and P5) or deeplab_backbone (C3 and C5)"},
      ConfigField{"bases", &BlendMaskConfig::bases, "number of bases"},
      ConfigField{"branch_channels", &BlendMaskConfig::branch_channels, "channels of the bottom module"},
      ConfigField{"branch_convs", &BlendMaskConfig::branch_convs,
                  "3x3 convolutions of protonet before its upsampling"},
      ConfigField{"branch_norm", &BlendMaskConfig::branch_norm, "norm of the bottom module: bn, gn or none"},
      ConfigField{"attention_size", &BlendMaskConfig::attention_size, "side of an attention map"},
      ConfigField{"mask_size", &BlendMaskConfig::mask_size, "side of a mask"},
      ConfigField{"semantic", &BlendMaskConfig::semantic, "an auxiliary semantic task in training"},
      ConfigField{"semantic_weight", &BlendMaskConfig::semantic_weight, "weight of its loss"},
      ConfigField{"paste", &BlendMaskConfig::paste,
                  "box a mask is pasted into: clipped to the image (as published) or whole"},
  };
};

template <>
struct ConfigTraits<SoloConfig> {
  static constexpr const char* name = "SoloConfig";
  static constexpr const char* doc = "Masks of the cells of a category grid; read by family solo.";
  static constexpr auto fields = std::tuple{
      ConfigField{"head", &SoloConfig::head,
                  "solo (a map per cell), decoupled (per column and row), decoupled_light (both from one "
                  "tower) or solov2 (dynamic convolution)"},
      ConfigField{"grids", &SoloConfig::grids, "cells per side of the image, one number per level"},
      ConfigField{"min_scales", &SoloConfig::min_scales,
                  "px, smallest sqrt of the box area of a level's objects, inclusive"},
      ConfigField{"max_scales", &SoloConfig::max_scales, "px, largest, inclusive"},
      ConfigField{"center_region", &SoloConfig::center_region,
                  "share of the box around the center of mass whose cells are positive"},
      ConfigField{"convs", &SoloConfig::convs, "3x3 convolutions of each tower"},
      ConfigField{"channels", &SoloConfig::channels, "channels of the towers"},
      ConfigField{"mask_channels", &SoloConfig::mask_channels,
                  "channels of the mask features and of each cell's kernel; used by head solov2"},
      ConfigField{"branch_channels", &SoloConfig::branch_channels,
                  "channels of the mask branch before its last convolution; used by head solov2"},
      ConfigField{"inclusive_boxes", &SoloConfig::inclusive_boxes,
                  "scales are of boxes x2 = x1 + w - 1, as mmdetection 1.0 has them"},
      ConfigField{"mask_frame", &SoloConfig::mask_frame,
                  "image that target masks are reduced from: padded, or image (without padding)"},
      ConfigField{"mask_weight", &SoloConfig::mask_weight, "weight of the mask loss"},
      ConfigField{"dice_eps", &SoloConfig::dice_eps, "added to both sums of the dice loss"},
      ConfigField{"max_candidates", &SoloConfig::max_candidates, "best masks that suppression sees"},
      ConfigField{"nms", &SoloConfig::nms, "suppression: matrix, or mask (greedy, above post.nms_threshold)"},
      ConfigField{"nms_kernel", &SoloConfig::nms_kernel, "decay of matrix NMS: gaussian or linear"},
      ConfigField{"nms_sigma", &SoloConfig::nms_sigma, "sharpness of the gaussian decay"},
      ConfigField{"update_threshold", &SoloConfig::update_threshold, "0..1, on the score after suppression"},
  };
};

template <>
struct ConfigTraits<ModelConfig> {
  static constexpr const char* name = "ModelConfig";
  static constexpr const char* doc = "Everything that defines a model.";
  static constexpr auto fields = std::tuple{
      ConfigField{"family", &ModelConfig::family, "fcos, condinst, blendmask or solo"},
      ConfigField{"num_classes", &ModelConfig::num_classes, "number of foreground classes"},
      ConfigField{"class_names", &ModelConfig::class_names, "one per class, or empty when unknown"},
      ConfigField{"category_ids", &ModelConfig::category_ids,
                  "dataset id of each class; empty: the label itself"},
      ConfigField{"input", &ModelConfig::input, "how images become network input"},
      ConfigField{"backbone", &ModelConfig::backbone, "the bottom-up network"},
      ConfigField{"neck", &ModelConfig::neck, "the feature pyramid"},
      ConfigField{"head", &ModelConfig::head, "the head"},
      ConfigField{"targets", &ModelConfig::targets, "assignment of ground truth to locations"},
      ConfigField{"loss", &ModelConfig::loss, "losses"},
      ConfigField{"post", &ModelConfig::post, "from head outputs to detections"},
      ConfigField{"condinst", &ModelConfig::condinst, "masks of family condinst"},
      ConfigField{"blendmask", &ModelConfig::blendmask, "masks of family blendmask"},
      ConfigField{"solo", &ModelConfig::solo, "masks of family solo"},
  };
};

/** Calls visit(name, value, doc) for each field of `config`, in order; `value` is a reference to the member.
 */
template <ConfigStruct C, class Visitor>
void visit_fields(C& config, Visitor&& visit) {
  std::apply([&](const auto&... field) { (visit(field.name, config.*field.member, field.doc), ...); },
             ConfigTraits<std::remove_cv_t<C>>::fields);
}

/** Names of the fields of C, in order. */
template <ConfigStruct C>
std::vector<std::string> field_names() {
  return std::apply([](const auto&... field) { return std::vector<std::string>{field.name...}; },
                    ConfigTraits<C>::fields);
}

}  // namespace instseg
