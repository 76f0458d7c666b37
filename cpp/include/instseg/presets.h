// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "instseg/config.h"

namespace instseg {

/** A named ModelConfig and what is published about it. */
struct Preset {
  std::string name;          // e.g. "fcos_R_50_1x"
  std::string description;   // one line
  double box_ap = 0;         // published COCO val2017 box AP; 0 when there is none
  double mask_ap = 0;        // the same of masks; 0 when there is none
  std::string weights_file;  // official file name; empty when none is published
  std::string weights_url;   // where the authors publish it
  ModelConfig config;
};

/** All presets, in table order. */
const std::vector<Preset>& presets();

/** The preset called `name`; ValueError lists close names. */
const Preset& find_preset(const std::string& name);

}  // namespace instseg
