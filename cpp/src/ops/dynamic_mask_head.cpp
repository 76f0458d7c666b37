// SPDX-License-Identifier: Apache-2.0
#include "instseg/ops/dynamic_mask_head.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "kernels/dynamic_mask_head.h"
#include "kernels/isa.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

using kernels::HeadCoordinates;
using kernels::HeadLayout;
using kernels::HeadView;

constexpr const char* kName = "dynamic_mask_head";

HeadCoordinates parse_coordinates(const std::string& text) {
  if (text == "relative") return HeadCoordinates::relative;
  if (text == "absolute") return HeadCoordinates::absolute;
  check<ValueError>(text == "none", "[", kName, "] coordinates '", text,
                    "' are not one of relative, absolute, none");
  return HeadCoordinates::none;
}

HeadLayout layout_of(const DynamicHead& head, int64_t channels) {
  const auto in_range = [](const char* name, int64_t value, int64_t low, int64_t high) {
    check<ValueError>(value >= low && value <= high, "[", kName, "] ", name, " is ", value, "; use ", low,
                      "..", high);
  };
  in_range("depth", head.depth, 1, kernels::kMaxHeadDepth);
  in_range("width", head.width, 1, kernels::kMaxHeadWidth);
  in_range("channels of the features", channels, 0, kernels::kMaxHeadChannels);
  check<ValueError>(head.stride >= 1, "[", kName, "] stride is ", head.stride, "; use a value >= 1");
  const int64_t inputs = channels + (parse_coordinates(head.coordinates) == HeadCoordinates::none ? 0 : 2);
  check<ValueError>(inputs > 0, "[", kName,
                    "] no channels and coordinates 'none' leave no input; use one of them");
  return {inputs, head.depth, head.width};
}

// Instances in the order of their images; image b owns order[starts[b]]..order[starts[b + 1] - 1].
struct Grouped {
  std::vector<int64_t> order, starts;
  kernels::InstanceRows of(int64_t image) const {
    return {order.data() + starts[image], starts[image + 1] - starts[image]};
  }
};

Grouped group(const HeadView& view) {
  Grouped out{std::vector<int64_t>(view.instances), std::vector<int64_t>(view.batch + 1)};
  for (int64_t n = 0; n < view.instances; ++n) ++out.starts[view.images[n] + 1];
  for (int64_t b = 0; b < view.batch; ++b) out.starts[b + 1] += out.starts[b];
  std::vector<int64_t> next(out.starts);
  for (int64_t n = 0; n < view.instances; ++n) out.order[next[view.images[n]]++] = n;
  return out;
}

// Calls function(image, its instances, first pixel) for all pieces of `span` pixels; images take turns, so
// that threads share an image with many instances.
template <class Function>
void for_pieces(const HeadView& view, const Grouped& grouped, int64_t span, const Function& function) {
  const int64_t pieces = (view.height * view.width + span - 1) / span;
  at::parallel_for(0, pieces * view.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i % view.batch;
      const auto instances = grouped.of(image);
      if (instances.count > 0) function(image, instances, i / view.batch * span);
    }
  });
}

at::Tensor pack(const HeadView& view, const at::Tensor& parameters) {
  at::Tensor packed = at::empty_like(parameters);
  float* to = packed.mutable_data_ptr<float>();
  at::parallel_for(0, view.instances, 64,
                   [&](int64_t begin, int64_t end) { kernels::pack_heads_cpu(view, begin, end, to); });
  return packed;
}

// The tensors of a call as the kernels want them, and a view of them.
struct Operands {
  at::Tensor features, parameters, images, locations, scales;
  HeadView view;

  Operands(const torch::autograd::variable_list& saved, const HeadLayout& head, HeadCoordinates coordinates,
           int64_t stride)
      : features(saved[0]), parameters(saved[1]), images(saved[2]), locations(saved[3]), scales(saved[4]) {
    view = {head,
            coordinates,
            stride,
            features.const_data_ptr<float>(),
            parameters.const_data_ptr<float>(),
            images.const_data_ptr<int64_t>(),
            locations.const_data_ptr<float>(),
            scales.const_data_ptr<float>(),
            features.size(0),
            features.size(1),
            features.size(2),
            features.size(3),
            parameters.size(0),
            kernels::float_lanes()};
  }
};

at::Tensor forward(const Operands& operands) {
  const HeadView& view = operands.view;
  at::Tensor logits = at::empty({view.instances, view.height, view.width}, operands.parameters.options());
  if (view.instances == 0) return logits;
  float* out = logits.mutable_data_ptr<float>();
  if (logits.is_cuda()) {
    const c10::DeviceGuard guard(logits.device());
    kernels::dynamic_mask_head_cuda(view, out, current_stream(logits));
    return logits;
  }
  const at::Tensor packed = pack(view, operands.parameters);
  const float* weights = packed.const_data_ptr<float>();
  for_pieces(view, group(view), kernels::kHeadBlock, [&](int64_t image, auto instances, int64_t first) {
    kernels::dynamic_mask_head_cpu(view, weights, image, instances, first, out);
  });
  return logits;
}

struct Gradients {
  at::Tensor features, parameters;  // undefined where not wanted
};

Gradients backward_cpu(const Operands& operands, const at::Tensor& grad, bool by_features,
                       bool by_parameters) {
  const HeadView& view = operands.view;
  Gradients out;
  // Images without instances are not visited.
  if (by_features) out.features = at::zeros_like(operands.features);
  const int64_t cells = view.height * view.width,
                spans = (cells + kernels::kHeadSpan - 1) / kernels::kHeadSpan;
  const int64_t size = operands.parameters.numel();
  at::Tensor partial;
  if (by_parameters) partial = at::empty({spans, size}, operands.parameters.options());
  const at::Tensor packed = pack(view, operands.parameters);
  const float *weights = packed.const_data_ptr<float>(), *slopes = grad.const_data_ptr<float>();
  float* features = by_features ? out.features.mutable_data_ptr<float>() : nullptr;
  float* sums = by_parameters ? partial.mutable_data_ptr<float>() : nullptr;
  for_pieces(view, group(view), kernels::kHeadSpan, [&](int64_t image, auto instances, int64_t first) {
    kernels::dynamic_mask_head_backward_cpu(view, weights, image, instances, first, slopes, features,
                                            sums ? sums + first / kernels::kHeadSpan * size : nullptr);
  });
  if (!by_parameters) return out;
  out.parameters = at::empty_like(operands.parameters);
  float* total = out.parameters.mutable_data_ptr<float>();
  at::parallel_for(0, size, 1 << 14, [&](int64_t begin, int64_t end) {
    kernels::sum_spans_cpu(sums, spans, size, begin, end, total);
  });
  return out;
}

Gradients backward_cuda(const Operands& operands, const at::Tensor& grad, bool by_features,
                        bool by_parameters) {
  const HeadView& view = operands.view;
  const c10::DeviceGuard guard(grad.device());
  void* stream = current_stream(grad);
  const float* slopes = grad.const_data_ptr<float>();
  Gradients out;
  if (by_features) {
    const at::Tensor order = at::argsort(operands.images, /*stable=*/true);
    const at::Tensor starts = at::searchsorted(operands.images.index_select(0, order),
                                               at::arange(view.batch + 1, operands.images.options()));
    out.features = at::empty_like(operands.features);
    kernels::dynamic_mask_head_features_cuda(view, order.const_data_ptr<int64_t>(),
                                             starts.const_data_ptr<int64_t>(), slopes,
                                             out.features.mutable_data_ptr<float>(), stream);
  }
  if (by_parameters) {
    const int64_t spans = (view.height * view.width + kernels::kHeadCudaSpan - 1) / kernels::kHeadCudaSpan;
    const at::Tensor partial =
        at::empty({spans, view.instances, operands.parameters.size(1)}, operands.parameters.options());
    kernels::dynamic_mask_head_parameters_cuda(view, slopes, partial.mutable_data_ptr<float>(), stream);
    out.parameters = partial.sum(0);
  }
  return out;
}

// Keeps its arguments only: the activations are cheaper to compute again than to store.
struct DynamicMaskHead : torch::autograd::Function<DynamicMaskHead> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& features,
                            const at::Tensor& parameters, const at::Tensor& images,
                            const at::Tensor& locations, const at::Tensor& scales, int64_t inputs,
                            int64_t depth, int64_t width, int64_t coordinates, int64_t stride) {
    context->save_for_backward({features, parameters, images, locations, scales});
    context->saved_data["head"] = std::vector<int64_t>{inputs, depth, width, coordinates, stride};
    return instseg::forward({{features, parameters, images, locations, scales},
                             {inputs, depth, width},
                             static_cast<HeadCoordinates>(coordinates),
                             stride});
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto head = context->saved_data["head"].toIntVector();
    const Operands operands(context->get_saved_variables(), {head[0], head[1], head[2]},
                            static_cast<HeadCoordinates>(head[3]), head[4]);
    const bool by_features = context->needs_input_grad(0), by_parameters = context->needs_input_grad(1);
    torch::autograd::variable_list out(10);
    if (operands.view.instances == 0) {
      if (by_features) out[0] = at::zeros_like(operands.features);
      if (by_parameters) out[1] = at::zeros_like(operands.parameters);
      return out;
    }
    const at::Tensor grad = grads[0].contiguous();
    const Gradients gradients = grad.is_cuda() ? backward_cuda(operands, grad, by_features, by_parameters)
                                               : backward_cpu(operands, grad, by_features, by_parameters);
    out[0] = gradients.features;
    out[1] = gradients.parameters;
    return out;
  }
};

void check_images(const at::Tensor& images, int64_t batch) {
  if (!images.is_cpu()) return;  // looking would make the device wait
  const int64_t* values = images.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < images.numel(); ++n) {
    check<ValueError>(values[n] >= 0 && values[n] < batch, "[", kName, "] images[", n, "] is ", values[n],
                      "; the batch has ", batch, " images, numbered from 0");
  }
}

void check_float_operand(const char* name, const at::Tensor& tensor, at::IntArrayRef shape,
                         at::Device device) {
  check_defined(kName, name, tensor);
  check<ValueError>(tensor.sizes() == shape, "[", kName, "] ", name, " has shape ", tensor.sizes(),
                    "; expected ", shape);
  check_dtype(kName, name, tensor, at::kFloat);
  check_same_device(kName, name, tensor, device);
}

}  // namespace

int64_t DynamicHead::parameters(int64_t channels) const {
  return kernels::parameter_count(layout_of(*this, channels));
}

at::Tensor dynamic_mask_head(const at::Tensor& features, const at::Tensor& parameters,
                             const at::Tensor& images, const at::Tensor& locations, const at::Tensor& scales,
                             const DynamicHead& head) {
  check_defined(kName, "features", features);
  check<ValueError>(features.dim() == 4 && features.size(2) > 0 && features.size(3) > 0, "[", kName,
                    "] features have shape ", features.sizes(), "; expected [B, C, H, W] with H, W >= 1");
  scalar_kind_of(kName, "features", features);
  check_device(kName, features.device());
  const HeadLayout layout = layout_of(head, features.size(1));
  check_defined(kName, "parameters", parameters);
  check<ValueError>(parameters.dim() == 2, "[", kName, "] parameters have shape ", parameters.sizes(),
                    "; expected [N, ", kernels::parameter_count(layout), "]");
  const int64_t n = parameters.size(0);
  check_float_operand("parameters", parameters, {n, kernels::parameter_count(layout)}, features.device());
  check_float_operand("locations", locations, {n, 2}, features.device());
  check_float_operand("scales", scales, {n}, features.device());
  check_vector(kName, "images", images, n);
  check_dtype(kName, "images", images, at::kLong);
  check_same_device(kName, "images", images, features.device());
  const at::Tensor plain_images = images.contiguous();
  check_images(plain_images, features.size(0));
  // Outside of the function, so that autograd undoes the conversions.
  return DynamicMaskHead::apply(features.to(at::kFloat).contiguous(), parameters.contiguous(), plain_images,
                                locations.detach().contiguous(), scales.detach().contiguous(), layout.inputs,
                                layout.depth, layout.width,
                                static_cast<int64_t>(parse_coordinates(head.coordinates)), head.stride);
}

}  // namespace instseg
