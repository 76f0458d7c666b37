// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace instseg::kernels {

/** Element type behind a `void*` handed to a kernel. */
enum class ScalarKind : int { float32, bfloat16, float16 };

}  // namespace instseg::kernels
