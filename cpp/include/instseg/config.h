// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace instseg {

/** How uint8 images become network input. See docs/preprocessing.md. */
struct InputConfig {
  std::string channel_order = "bgr";  // "bgr" or "rgb", the order the network was trained with
  std::vector<double> mean = {103.53, 116.28, 123.675};  // per channel of channel_order, 0..255
  std::vector<double> std = {1.0, 1.0, 1.0};             // per channel of channel_order, 0..255
  std::string resize = "pillow";                         // "pillow", "opencv" or "float"
  int64_t short_side = 800;                              // px, at inference
  int64_t long_side = 1333;                              // px, upper bound
  int64_t size_divisor = 32;                             // padded height and width are multiples of it

  void check() const;
  bool operator==(const InputConfig&) const = default;
};

/** The bottom-up network. See docs/models.md. */
struct BackboneConfig {
  std::string name = "resnet50";   // resnet18|34|50|101, efficientnet_lite0|1|2
  std::string norm = "frozen_bn";  // "frozen_bn", "bn", or "bn_eval" (fixed statistics, trained affine)
  int64_t freeze = 2;              // leading stages without gradients: 0 none, 1 stem, 2 stem and res2, ...
  bool stride_in_1x1 = true;  // stride of a bottleneck: in its first 1x1 (MSRA) or in its 3x3 (torchvision)

  void check() const;
  bool operator==(const BackboneConfig&) const = default;
};

/** The feature pyramid. */
struct NeckConfig {
  std::string name = "fpn";  // "fpn"
  int64_t channels = 256;    // of every output level
  int64_t min_level = 3;     // finest level: 3 is stride 8
  int64_t max_level = 7;     // coarsest level; levels above 5 are derived from P5
  std::string extra =
      "conv";  // levels above 5: "conv" (3x3 stride 2 on P5; ReLU before P7) or "pool" (decimation)
  std::string norm = "none";  // "none" or "bn"

  void check() const;
  bool operator==(const NeckConfig&) const = default;
};

/** The FCOS head (FCOS, TPAMI version). */
struct HeadConfig {
  int64_t share_convs = 0;             // convolutions before the two towers
  int64_t cls_convs = 4;               // classification tower
  int64_t box_convs = 4;               // box tower
  std::string norm = "gn";             // "gn", "bn" (one per level) or "none"
  bool scale = true;                   // a learnable factor per level on the box regression
  std::string centerness_on = "box";   // tower that feeds the centerness: "box" or "cls"
  std::string box_transform = "relu";  // "relu" or "exp"
  bool stride_units = true;            // regression in units of the level's stride; false: in pixels
  std::string quality =
      "centerness";  // what the centerness branch is trained to predict: "centerness" or "iou"
  std::string location_offset =
      "half";                // location of cell i: "half" i*s + s/2, "none" i*(padded size / map size)
  double prior_prob = 0.01;  // initial foreground probability

  void check() const;
  bool operator==(const HeadConfig&) const = default;
};

/** Assignment of ground truth to locations (FCOS section 3). */
struct TargetConfig {
  std::string rule = "fcos";  // "fcos" or "torchvision" (strict bounds, sizes 4..8 strides)
  std::vector<int64_t> sizes_of_interest = {64, 128, 256, 512};  // px, bounds between levels
  double center_radius = 1.5;                                    // in strides; 0: anywhere inside the box

  void check() const;
  bool operator==(const TargetConfig&) const = default;
};

/** Losses of FCOS. */
struct LossConfig {
  double focal_alpha = 0.25;
  double focal_gamma = 2.0;
  std::string box_loss = "giou";             // "giou", "iou" (-log IoU) or "linear_iou" (1 - IoU)
  double iou_smoothing = 1.0;                // added to intersection and union of the IoU term
  bool weight_by_centerness = true;          // box loss weighted by the centerness target
  std::string cls_normalizer = "positives";  // "positives", "moving" (running mean) or "all" (every location)

  void check() const;
  bool operator==(const LossConfig&) const = default;
};

/** From head outputs to detections. */
struct PostConfig {
  double score_threshold = 0.05;       // on the value named by threshold_on
  std::string threshold_on = "class";  // "class" p, "product" p*c, or "score"
  std::string score = "sqrt";          // reported score: "sqrt" of p*c, or "product" p*c
  std::string topk_over =
      "pairs";  // candidates are "pairs" (location, class) or "locations" (best class ranks)
  int64_t topk_per_level = 1000;
  bool clip_before_nms = false;  // clip boxes to the network image before NMS
  double nms_threshold = 0.6;    // IoU above which the lower score is dropped
  bool nms_class_offset =
      false;  // one NMS over class-shifted boxes, as the originals do; false: exact per class
  int64_t max_detections = 100;
  bool keep_ties = true;  // keep all detections that tie with the last one

  void check() const;
  bool operator==(const PostConfig&) const = default;
};

/** Training of CondInst masks from boxes alone (Tian et al., BoxInst, CVPR 2021). */
struct BoxInstConfig {
  int64_t pairwise_size = 3;           // neighbourhood of the pairwise term, odd
  int64_t pairwise_dilation = 2;       // mask pixels between neighbours
  double color_threshold = 0.3;        // similarity from which two pixels should agree
  int64_t warmup_iterations = 10000;   // over which the pairwise term grows to its weight
  int64_t bottom_pixels_removed = 10;  // px of the original image, whose colors are not used

  void check() const;
  bool operator==(const BoxInstConfig&) const = default;
};

/** Masks by per-instance convolutions (Tian et al., CondInst, ECCV 2020). Read by family condinst. */
struct CondInstConfig {
  int64_t mask_channels = 8;             // of the mask features; 0: coordinates alone
  int64_t branch_channels = 128;         // of the mask branch
  int64_t branch_convs = 4;              // 3x3 convolutions after the fusion of P3, P4 and P5
  std::string branch_norm = "bn";        // "bn", "gn" or "none"
  int64_t head_depth = 3;                // layers of the dynamic mask head
  int64_t head_width = 8;                // channels between its layers
  std::string coordinates = "relative";  // "relative", "absolute" or "none": further inputs of the mask head
  int64_t output_stride = 4;             // px per mask pixel: 8, 4 or 2
  bool semantic = false;                 // an auxiliary semantic task in training
  std::string supervision = "masks";     // "masks", or "boxes" (BoxInst)
  int64_t max_proposals = 500;           // positive locations with a mask loss, of a batch; 0: all
  int64_t max_proposals_per_image = 0;   // the same of an image; 0: all
  int64_t topk_per_image = 0;  // best positives an image, shared by its objects; 0: no choice by score
  double dice_eps = 1e-5;
  BoxInstConfig boxinst;  // used with supervision "boxes"

  void check() const;
  bool operator==(const CondInstConfig&) const = default;
};

/** Masks blended from bases (Chen et al., BlendMask, CVPR 2020). Read by family blendmask. */
struct BlendMaskConfig {
  std::string bottom =
      "protonet";  // bottom module: "protonet", "deeplab_pyramid" (P3, P5) or "deeplab_backbone" (C3, C5)
  int64_t bases = 4;
  int64_t branch_channels = 128;   // of the bottom module
  int64_t branch_convs = 3;        // 3x3 convolutions before its upsampling
  std::string branch_norm = "bn";  // "bn", "gn" or "none"
  int64_t attention_size = 14;     // M: side of an attention map
  int64_t mask_size = 56;          // R: side of a mask
  bool semantic = true;            // an auxiliary semantic task in training
  double semantic_weight = 0.3;    // of its loss
  std::string paste =
      "clipped";  // box a mask is pasted into: "clipped" to the image (as published) or "whole"

  void check() const;
  bool operator==(const BlendMaskConfig&) const = default;
};

/**
 * Masks of the cells of a category grid (Wang et al., SOLO, ECCV 2020; SOLOv2, NeurIPS 2020). Read by family
 * solo. Levels are P2 at half size, P3, P4, P5, and P6 at the size of P5.
 */
struct SoloConfig {
  std::string head = "solo";  // a map per cell: "solo"; per column and row: "decoupled", or "decoupled_light"
                              // (one tower for both); dynamic convolution: "solov2"
  std::vector<int64_t> grids = {40, 36, 24, 16, 12};       // cells per side of the image, by level
  std::vector<double> min_scales = {1, 48, 96, 192, 384};  // px, sqrt of the box area, inclusive, by level
  std::vector<double> max_scales = {96, 192, 384, 768, 2048};
  double center_region = 0.2;         // share of the box whose cells are positive, around the center of mass
  int64_t convs = 7;                  // 3x3 convolutions of each tower
  int64_t channels = 256;             // of the towers
  int64_t mask_channels = 256;        // "solov2": channels of the mask features and of each cell's kernel
  int64_t branch_channels = 128;      // "solov2": of the mask branch before its last convolution
  bool inclusive_boxes = false;       // scales are of boxes x2 = x1 + w - 1, as mmdetection 1.0 has them
  std::string mask_frame = "padded";  // image that masks are reduced from: "padded", or "image" (unpadded)
  double mask_weight = 3.0;           // of the mask loss
  double dice_eps = 0.001;            // added to both sums of the dice loss
  int64_t max_candidates = 500;       // best masks that suppression sees
  std::string nms = "matrix";         // "matrix", or "mask" (greedy, above post.nms_threshold)
  std::string nms_kernel = "gaussian";  // of matrix NMS: "gaussian" or "linear"
  double nms_sigma = 2.0;               // of the gaussian
  double update_threshold = 0.05;       // on the score after suppression

  void check() const;
  bool operator==(const SoloConfig&) const = default;
};

/** Everything that defines a model: same names, order and defaults in C++, Python, YAML and the model file.
 */
struct ModelConfig {
  std::string family = "fcos";  // "fcos", "condinst", "blendmask" or "solo"
  int64_t num_classes = 80;
  std::vector<std::string> class_names;  // [num_classes], or empty when unknown
  std::vector<int64_t> category_ids;     // dataset id of each label, [num_classes]; empty: the label itself
  InputConfig input;
  BackboneConfig backbone;
  NeckConfig neck;
  HeadConfig head;
  TargetConfig targets;
  LossConfig loss;
  PostConfig post;
  CondInstConfig condinst;
  BlendMaskConfig blendmask;
  SoloConfig solo;

  /** Throws ValueError naming the field and its value, e.g. "[ModelConfig] head.norm: 'ln' is not one of gn,
   * bn, none". */
  void check() const;
  /** JSON object with every field, in declaration order. */
  std::string to_json(int indent = -1) const;
  /** Missing fields take defaults; unknown fields and wrong types throw ValueError naming the field. */
  static ModelConfig from_json(const std::string& text);
  bool operator==(const ModelConfig&) const = default;
};

}  // namespace instseg
