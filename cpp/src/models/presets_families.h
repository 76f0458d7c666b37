// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "instseg/presets.h"

/** What presets.cpp puts together, one list per family in table order, and what the lists share. */
namespace instseg {

std::vector<Preset> fcos_presets();
std::vector<Preset> blendmask_presets();
/** CondInst and BoxInst. */
std::vector<Preset> condinst_presets();
/** SOLO, Decoupled SOLO and SOLOv2. */
std::vector<Preset> solo_presets();

/** The defaults of config.h with the classes of COCO. */
ModelConfig coco_config();

/** FCOS of mmdetection with its own candidate selection, score and resize; `improved`: with the authors' head
 * and losses. */
ModelConfig mmdet_config(const std::string& backbone, bool improved);

/** FCOS for small devices on EfficientNet-Lite`size`: `convs` of each tower, levels P3..P`max_level`. */
ModelConfig lite_config(int size, int64_t convs, int64_t max_level, int64_t short_side);

/** Sets what is published: the authors' file at `url`, and COCO val2017 AP of boxes and masks. */
void set_published(Preset& preset, const std::string& url, double box_ap, double mask_ap = 0);

}  // namespace instseg
