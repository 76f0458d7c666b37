// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "instseg/image_size.h"
#include "instseg/mask_targets.h"
#include "instseg/masks.h"

namespace instseg {

/** Detections of one image, sorted by descending score, in continuous pixel coordinates of the original
 * image. */
struct Instances {
  at::Tensor boxes;      // [N, 4] float32: x1, y1, x2, y2
  at::Tensor scores;     // [N] float32, 0..1
  at::Tensor labels;     // [N] int64, index into the class names
  ImageSize image_size;  // of the original image
  Masks masks = {};      // undefined for families without masks

  int64_t size() const { return scores.defined() ? scores.size(0) : 0; }
  /** Instances with score >= `threshold`, on the same device. */
  Instances above(double threshold) const;
  Instances to(at::Device device) const;
};

/** Milliseconds spent in the last call, by stage. */
struct StageTimes {
  double preprocess = 0;
  double network = 0;
  double postprocess = 0;
};

/** Ground truth of one image, in pixel coordinates of the image handed to the model. */
struct Targets {
  at::Tensor boxes;                       // [G, 4] float32: x1, y1, x2, y2
  at::Tensor labels;                      // [G] int64, 0..num_classes-1
  std::optional<MaskTargets> masks = {};  // G of them; needed by mask losses
  at::Tensor semantic = {};               // [H, W] uint8 or int64: class + 1, 0 background; optional
};

}  // namespace instseg
