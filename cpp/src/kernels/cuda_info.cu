// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda_info.h"

namespace instseg::kernels {

bool cuda_compiled() { return true; }

}  // namespace instseg::kernels
