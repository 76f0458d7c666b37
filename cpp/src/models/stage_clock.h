// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace instseg {

/** Times stages of work on one device: of work done, not of work queued. */
class StageClock {
 public:
  /** Of work on the device of `tensor`. */
  explicit StageClock(const at::Tensor& tensor);
  /** Milliseconds since the last call, or since the start. */
  double lap();

 private:
  at::Device device_;
  double start_;
};

}  // namespace instseg
