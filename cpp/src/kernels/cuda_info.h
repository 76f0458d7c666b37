// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace instseg::kernels {

/** Whether this build contains the CUDA kernels. */
bool cuda_compiled();

}  // namespace instseg::kernels
