// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "instseg/error.h"
#include "kernels/scalar_kind.h"

namespace instseg {

/** Kind of a float32, bfloat16 or float16 tensor; TypeError for other dtypes. */
inline kernels::ScalarKind scalar_kind_of(const char* function, const char* name, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  if (type == at::kBFloat16) return kernels::ScalarKind::bfloat16;
  if (type == at::kHalf) return kernels::ScalarKind::float16;
  check<TypeError>(type == at::kFloat, "[", function, "] ", name, " is ", type,
                   "; use float32, bfloat16 or float16");
  return kernels::ScalarKind::float32;
}

inline void check_dtype(const char* function, const char* name, const at::Tensor& tensor,
                        at::ScalarType type) {
  check<TypeError>(tensor.scalar_type() == type, "[", function, "] ", name, " is ", tensor.scalar_type(),
                   "; convert it to ", type);
}

inline void check_same_device(const char* function, const char* name, const at::Tensor& tensor,
                              at::Device device) {
  check<ValueError>(tensor.device() == device, "[", function, "] ", name, " is on ", tensor.device(),
                    ", the others on ", device, "; move them to one device");
}

inline void check_defined(const char* function, const char* name, const at::Tensor& tensor) {
  check<ValueError>(tensor.defined(), "[", function, "] ", name, " is missing");
}

/** [N, 4] of any N. */
inline void check_rows_of_four(const char* function, const char* name, const at::Tensor& tensor) {
  check_defined(function, name, tensor);
  check<ValueError>(tensor.dim() == 2 && tensor.size(1) == 4, "[", function, "] ", name, " has shape ",
                    tensor.sizes(), "; expected [N, 4]");
}

/** [size]. */
inline void check_vector(const char* function, const char* name, const at::Tensor& tensor, int64_t size) {
  check_defined(function, name, tensor);
  check<ValueError>(tensor.dim() == 1 && tensor.size(0) == size, "[", function, "] ", name, " has shape ",
                    tensor.sizes(), "; expected [", size, "]");
}

/** The kernels run on the CPU and on CUDA. */
inline void check_device(const char* function, at::Device device) {
  check<ValueError>(device.is_cpu() || device.is_cuda(), "[", function, "] tensors are on ", device,
                    "; only cpu and cuda are supported");
}

}  // namespace instseg
