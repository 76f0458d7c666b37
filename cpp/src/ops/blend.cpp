// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/blend.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "kernels/blend.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kMaxSize = 4096;  // cells and pixels of a side

struct BlendOptions {
  int64_t attention_size, size;
  double spatial_scale;
};

// bases [B, K, H, W] float32 channels-last, the others contiguous.
kernels::BlendInput input_of(const at::Tensor& bases, const at::Tensor& boxes, const at::Tensor& images,
                             const at::Tensor& attention, const BlendOptions& options) {
  return {.bases = bases.const_data_ptr<float>(),
          .boxes = boxes.const_data_ptr<float>(),
          .image = images.const_data_ptr<int64_t>(),
          .attention = attention.const_data_ptr<float>(),
          .instances = boxes.size(0),
          .images = bases.size(0),
          .height = bases.size(2),
          .width = bases.size(3),
          .channels = bases.size(1),
          .cells = options.attention_size,
          .size = options.size,
          .scale = static_cast<float>(options.spatial_scale)};
}

at::Tensor forward(const kernels::BlendInput& in, const at::Tensor& boxes) {
  at::Tensor logits = at::empty({in.instances, in.size, in.size}, boxes.options());
  float* out = logits.mutable_data_ptr<float>();
  if (boxes.is_cuda()) {
    const c10::DeviceGuard guard(boxes.device());
    kernels::blend_cuda(in, out, current_stream(boxes));
    return logits;
  }
  at::parallel_for(0, in.instances, 1,
                   [&](int64_t begin, int64_t end) { kernels::blend_cpu(in, begin, end, out); });
  return logits;
}

at::Tensor attention_backward(const kernels::BlendInput& in, const at::Tensor& grad,
                              const at::Tensor& attention) {
  at::Tensor result = at::empty_like(attention);
  float* out = result.mutable_data_ptr<float>();
  const float* slopes = grad.const_data_ptr<float>();
  if (grad.is_cuda()) {
    const c10::DeviceGuard guard(grad.device());
    kernels::blend_attention_backward_cuda(in, slopes, out, current_stream(grad));
    return result;
  }
  at::parallel_for(0, in.instances, 1, [&](int64_t begin, int64_t end) {
    kernels::blend_attention_backward_cpu(in, slopes, begin, end, out);
  });
  return result;
}

// Each task owns rows of the bases, of about equal work; the result does not depend on their number.
void bases_backward_cpu(const kernels::BlendInput& in, const float* grad, float* out) {
  std::vector<int64_t> work(in.images * in.height + 1);
  kernels::blend_row_work_cpu(in, work.data());
  const int64_t tasks = at::get_num_threads();
  const auto first_row = [&](int64_t task) {
    const auto place = std::lower_bound(work.begin(), work.end() - 1, work.back() * task / tasks);
    return task == tasks ? in.images * in.height : static_cast<int64_t>(place - work.begin());
  };
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    kernels::blend_bases_backward_cpu(in, grad, first_row(begin), first_row(end), out);
  });
}

at::Tensor bases_backward(const kernels::BlendInput& in, const at::Tensor& grad) {
  const at::Tensor result = at::zeros({in.images, in.height, in.width, in.channels}, grad.options());
  float* out = result.mutable_data_ptr<float>();
  if (grad.is_cuda()) {
    at::globalContext().alertNotDeterministic("instseg::blend backward");
    const c10::DeviceGuard guard(grad.device());
    kernels::blend_bases_backward_cuda(in, grad.const_data_ptr<float>(), out, current_stream(grad));
  } else {
    bases_backward_cpu(in, grad.const_data_ptr<float>(), out);
  }
  return result.permute({0, 3, 1, 2});
}

struct Blend : torch::autograd::Function<Blend> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& bases, const at::Tensor& boxes,
                            const at::Tensor& images, const at::Tensor& attention, int64_t attention_size,
                            int64_t size, double spatial_scale) {
    context->save_for_backward({bases, boxes, images, attention});
    context->saved_data["attention_size"] = attention_size;
    context->saved_data["size"] = size;
    context->saved_data["spatial_scale"] = spatial_scale;
    return instseg::forward(input_of(bases, boxes, images, attention, {attention_size, size, spatial_scale}),
                            boxes);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const BlendOptions options{context->saved_data["attention_size"].toInt(),
                               context->saved_data["size"].toInt(),
                               context->saved_data["spatial_scale"].toDouble()};
    const auto in = input_of(saved[0], saved[1], saved[2], saved[3], options);
    const at::Tensor grad = grads[0].contiguous();
    variable_list result(7);
    if (context->needs_input_grad(0)) result[0] = bases_backward(in, grad);
    if (context->needs_input_grad(3)) result[3] = attention_backward(in, grad, saved[3]);
    return result;
  }
};

void check_options(const BlendOptions& options) {
  check<ValueError>(options.attention_size >= 1 && options.attention_size <= kMaxSize,
                    "[blend] attention_size is ", options.attention_size, "; use 1..", kMaxSize);
  check<ValueError>(options.size >= 1 && options.size <= kMaxSize, "[blend] size is ", options.size,
                    "; use 1..", kMaxSize);
  check<ValueError>(options.spatial_scale > 0, "[blend] spatial_scale is ", options.spatial_scale,
                    "; use a value > 0");
}

void check_tensors(const at::Tensor& bases, const at::Tensor& boxes, const at::Tensor& images,
                   const at::Tensor& attention, int64_t cells) {
  check_defined("blend", "bases", bases);
  check<ValueError>(bases.dim() == 4 && bases.size(1) > 0 && bases.size(2) > 0 && bases.size(3) > 0,
                    "[blend] bases have shape ", bases.sizes(), "; expected [B, K, H, W], not empty");
  scalar_kind_of("blend", "bases", bases);
  check_rows_of_four("blend", "boxes", boxes);
  check_vector("blend", "images", images, boxes.size(0));
  check_defined("blend", "attention", attention);
  const int64_t values = bases.size(1) * cells * cells;
  check<ValueError>(attention.dim() == 2 && attention.size(0) == boxes.size(0) && attention.size(1) == values,
                    "[blend] attention has shape ", attention.sizes(), "; expected [", boxes.size(0), ", ",
                    values, "], bases x ", cells, " x ", cells);
  check_dtype("blend", "boxes", boxes, at::kFloat);
  check_dtype("blend", "images", images, at::kLong);
  check_dtype("blend", "attention", attention, at::kFloat);
  check_device("blend", bases.device());
  check_same_device("blend", "boxes", boxes, bases.device());
  check_same_device("blend", "images", images, bases.device());
  check_same_device("blend", "attention", attention, bases.device());
}

// On the CPU only, where it costs no wait; the kernels skip what belongs to no image.
void check_images(const at::Tensor& images, int64_t count) {
  if (!images.is_cpu()) return;
  const int64_t* image = images.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < images.size(0); ++n) {
    check<ValueError>(image[n] >= 0 && image[n] < count, "[blend] images[", n, "] is ", image[n],
                      "; the batch has ", count, " images");
  }
}

}  // namespace

at::Tensor blend(const at::Tensor& bases, const at::Tensor& boxes, const at::Tensor& images,
                 const at::Tensor& attention, int64_t attention_size, int64_t size, double spatial_scale) {
  check_options({attention_size, size, spatial_scale});
  check_tensors(bases, boxes, images, attention, attention_size);
  const at::Tensor image = images.contiguous();
  check_images(image, bases.size(0));
  // Outside of the function, so that autograd undoes the copies. Channels-last, the bases at a sample are
  // one vector.
  const at::Tensor maps = bases.to(at::kFloat).contiguous(at::MemoryFormat::ChannelsLast);
  return Blend::apply(maps, boxes.detach().contiguous(), image, attention.contiguous(), attention_size, size,
                      spatial_scale);
}

}  // namespace instseg
