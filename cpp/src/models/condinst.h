// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "instseg/model.h"

namespace instseg {

/**
 * FCOS with a mask head per instance, whose weights a controller predicts (Tian et al., CondInst, ECCV 2020);
 * trained from masks, or from boxes alone (Tian et al., BoxInst, CVPR 2021).
 */
std::shared_ptr<Model> make_condinst(const ModelConfig& config);

}  // namespace instseg
