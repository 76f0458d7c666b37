// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "instseg/model.h"

namespace instseg {

/**
 * Masks by location: SOLO and Decoupled SOLO (Wang et al., SOLO, ECCV 2020) and SOLOv2 (Wang et al., NeurIPS
 * 2020).
 */
std::shared_ptr<Model> make_solo(const ModelConfig& config);

}  // namespace instseg
