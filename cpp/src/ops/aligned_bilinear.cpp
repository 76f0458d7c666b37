// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/aligned_bilinear.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "kernels/aligned_bilinear.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

constexpr const char* kName = "aligned_bilinear";
constexpr int64_t kGrain = 1 << 15;  // elements per task

using kernels::EnlargeShape;

// The form both directions work in; `sizes` are those of the small maps.
EnlargeShape shape_of(at::IntArrayRef sizes, at::MemoryFormat format, int64_t factor) {
  const size_t last = sizes.size() - 1;
  const int64_t height = sizes[last - 1], width = sizes[last];
  if (sizes.size() == 3) return {sizes[0], height, width, 1, factor};
  if (format == at::MemoryFormat::ChannelsLast) return {sizes[0], height, width, sizes[1], factor};
  return {sizes[0] * sizes[1], height, width, 1, factor};
}

at::MemoryFormat format_of(const at::Tensor& x) {
  return x.dim() == 4 ? x.suggest_memory_format() : at::MemoryFormat::Contiguous;
}

// function(begin, end) over rows of `length` elements.
template <class Function>
void for_rows(int64_t rows, int64_t length, const Function& function) {
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / length), function);
}

at::Tensor forward(const at::Tensor& x, int64_t factor, at::MemoryFormat format) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[x.dim() - 2] *= factor;
  sizes[x.dim() - 1] *= factor;
  at::Tensor out = at::empty(sizes, x.options().memory_format(format));
  if (out.numel() == 0) return out;
  const EnlargeShape shape = shape_of(x.sizes(), format, factor);
  const auto kind = scalar_kind_of(kName, "x", x);
  const void* from = x.const_data_ptr();
  void* to = out.mutable_data_ptr();
  if (x.is_cuda()) {
    const c10::DeviceGuard guard(x.device());
    kernels::aligned_bilinear_cuda(from, kind, shape, to, current_stream(x));
  } else {
    const int64_t rows = shape.maps * factor * shape.height, length = factor * shape.width * shape.inner;
    for_rows(rows, length, [&](int64_t begin, int64_t end) {
      kernels::aligned_bilinear_cpu(from, kind, shape, begin, end, to);
    });
  }
  return out;
}

at::Tensor backward(const at::Tensor& grad, at::IntArrayRef sizes, int64_t factor, at::MemoryFormat format) {
  at::Tensor grad_x = at::empty(sizes, grad.options().memory_format(format));
  if (grad_x.numel() == 0) return grad_x;
  const EnlargeShape shape = shape_of(sizes, format, factor);
  const auto kind = scalar_kind_of(kName, "gradient", grad);
  const void* from = grad.const_data_ptr();
  void* to = grad_x.mutable_data_ptr();
  if (grad.is_cuda()) {
    const c10::DeviceGuard guard(grad.device());
    kernels::aligned_bilinear_backward_cuda(from, kind, shape, to, current_stream(grad));
  } else {
    const int64_t length = factor * factor * shape.width * shape.inner;
    for_rows(shape.maps * shape.height, length, [&](int64_t begin, int64_t end) {
      kernels::aligned_bilinear_backward_cpu(from, kind, shape, begin, end, to);
    });
  }
  return grad_x;
}

struct AlignedBilinear : torch::autograd::Function<AlignedBilinear> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, int64_t factor) {
    const at::MemoryFormat format = format_of(x);
    context->saved_data["sizes"] = x.sizes().vec();
    context->saved_data["factor"] = factor;
    context->saved_data["format"] = static_cast<int64_t>(format);
    return instseg::forward(x.contiguous(format), factor, format);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto format = static_cast<at::MemoryFormat>(context->saved_data["format"].toInt());
    return {instseg::backward(grads[0].contiguous(format), context->saved_data["sizes"].toIntVector(),
                              context->saved_data["factor"].toInt(), format),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor aligned_bilinear(const at::Tensor& x, int64_t factor) {
  check_defined(kName, "x", x);
  check<ValueError>((x.dim() == 3 || x.dim() == 4) && x.size(-2) > 0 && x.size(-1) > 0, "[", kName,
                    "] x has shape ", x.sizes(), "; expected [N, C, H, W] or [N, H, W] with H, W >= 1");
  check<ValueError>(factor >= 1, "[", kName, "] factor is ", factor, "; use a value >= 1");
  scalar_kind_of(kName, "x", x);
  check_device(kName, x.device());
  if (factor == 1) return x.clone();
  return AlignedBilinear::apply(x, factor);
}

}  // namespace instseg
