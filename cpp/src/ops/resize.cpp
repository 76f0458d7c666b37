// SPDX-License-Identifier: Apache-2.0
#include "ops/resize.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <limits>
#include <vector>

#include "instseg/error.h"
#include "instseg/preprocess.h"
#include "kernels/resize.h"
#include "ops/cuda_stream.h"

namespace instseg {
namespace {

using kernels::ResizeShape;

// Indices in the tables are 32-bit.
constexpr int64_t kMaxSide = std::numeric_limits<int32_t>::max();

// A host table as device memory.
template <class T>
at::Tensor upload(const std::vector<T>& table, const at::Device& device) {
  const auto bytes = static_cast<int64_t>(table.size() * sizeof(T));
  return at::from_blob(const_cast<T*>(table.data()), {bytes}, at::kByte).to(device);
}

template <class T>
const T* pointer(const at::Tensor& bytes) {
  return reinterpret_cast<const T*>(bytes.const_data_ptr<uint8_t>());
}

void check_device(const char* name, const at::Tensor& tensor) {
  check<ValueError>(tensor.is_cpu() || tensor.is_cuda(), "[", name, "] needs a CPU or CUDA tensor, got ",
                    tensor.device().str());
}

void check_size(const char* name, const ImageSize& size) {
  check<ValueError>(size.height >= 1 && size.width >= 1 && size.height <= kMaxSide && size.width <= kMaxSide,
                    "[", name, "] target size must be at least 1x1, got ", size.height, "x", size.width);
}

// One pass of Pillow's filter on the GPU: `shape` describes this pass alone.
at::Tensor pillow_pass(const at::Tensor& image, const ResizeShape& shape, bool columns) {
  const kernels::FilterAxis axis = columns ? kernels::pillow_axis(shape.in_width, shape.out_width)
                                           : kernels::pillow_axis(shape.in_height, shape.out_height);
  const at::Tensor start = upload(axis.start, image.device()), weights = upload(axis.weights, image.device());
  at::Tensor out = at::empty({shape.out_height, shape.out_width, shape.channels}, image.options());
  const auto pass = columns ? kernels::filter_columns_cuda : kernels::filter_rows_cuda;
  pass(image.const_data_ptr<uint8_t>(), shape, axis.taps, pointer<int32_t>(start), pointer<int32_t>(weights),
       out.mutable_data_ptr<uint8_t>(), current_stream(image));
  return out;
}

at::Tensor pillow_on_gpu(at::Tensor image, const ResizeShape& shape) {
  if (shape.in_width == shape.out_width && shape.in_height == shape.out_height) return image.clone();
  if (shape.in_width != shape.out_width) {
    image = pillow_pass(image, {shape.in_height, shape.in_width, shape.in_height, shape.out_width, 3}, true);
  }
  if (shape.in_height != shape.out_height) {
    image =
        pillow_pass(image, {shape.in_height, shape.out_width, shape.out_height, shape.out_width, 3}, false);
  }
  return image;
}

at::Tensor opencv_on_gpu(const at::Tensor& image, const ResizeShape& shape) {
  const at::Tensor rows = upload(kernels::opencv_axis(shape.in_height, shape.out_height), image.device());
  const at::Tensor columns = upload(kernels::opencv_axis(shape.in_width, shape.out_width), image.device());
  at::Tensor out = at::empty({shape.out_height, shape.out_width, 3}, image.options());
  kernels::resize_opencv_cuda(
      image.const_data_ptr<uint8_t>(), shape, pointer<kernels::LinearTap<int32_t>>(rows),
      pointer<kernels::LinearTap<int32_t>>(columns), out.mutable_data_ptr<uint8_t>(), current_stream(image));
  return out;
}

at::Tensor float_on_gpu(const at::Tensor& image, const ResizeShape& shape) {
  const at::Tensor rows = upload(kernels::float_axis(shape.in_height, shape.out_height), image.device());
  const at::Tensor columns = upload(kernels::float_axis(shape.in_width, shape.out_width), image.device());
  at::Tensor out = at::empty({shape.out_height, shape.out_width, 3}, image.options().dtype(at::kFloat));
  kernels::resize_float_cuda(image.const_data_ptr<uint8_t>(), shape, pointer<kernels::LinearTap<float>>(rows),
                             pointer<kernels::LinearTap<float>>(columns), out.mutable_data_ptr<float>(),
                             current_stream(image));
  return out;
}

}  // namespace

at::Tensor resize_image(const at::Tensor& image, const ImageSize& size, const std::string& kernel) {
  check<ValueError>(kernel == "pillow" || kernel == "opencv" || kernel == "float", "[resize_image] kernel '",
                    kernel, "' is not one of pillow, opencv, float");
  check<ValueError>(image.dim() == 3 && image.size(2) == 3 && image.numel() > 0,
                    "[resize_image] needs an RGB image [H, W, 3], got ", image.sizes());
  check<TypeError>(image.scalar_type() == at::kByte, "[resize_image] needs uint8 pixels, got ",
                   image.scalar_type());
  check_size("resize_image", size);
  check_device("resize_image", image);

  const at::Tensor in = image.contiguous();
  const ResizeShape shape{in.size(0), in.size(1), size.height, size.width, 3};
  if (in.is_cuda()) {
    const c10::DeviceGuard guard(in.device());
    return kernel == "pillow" ? pillow_on_gpu(in, shape)
                              : (kernel == "opencv" ? opencv_on_gpu(in, shape) : float_on_gpu(in, shape));
  }
  const uint8_t* pixels = in.const_data_ptr<uint8_t>();
  const auto dtype = kernel == "float" ? at::kFloat : at::kByte;
  at::Tensor out = at::empty({size.height, size.width, 3}, in.options().dtype(dtype));
  if (kernel == "pillow") {
    kernels::resize_pillow(pixels, shape, out.mutable_data_ptr<uint8_t>());
  } else if (kernel == "opencv") {
    kernels::resize_opencv(pixels, shape, out.mutable_data_ptr<uint8_t>());
  } else {
    kernels::resize_float(pixels, shape, out.mutable_data_ptr<float>());
  }
  return out;
}

at::Tensor resize_mask(const at::Tensor& mask, const ImageSize& size, const std::string& rule) {
  check<ValueError>(rule == "pillow" || rule == "opencv", "[resize_mask] rule '", rule,
                    "' is not one of pillow, opencv");
  check<ValueError>(mask.dim() == 2 && mask.numel() > 0, "[resize_mask] needs a mask [H, W], got ",
                    mask.sizes());
  check<TypeError>(mask.scalar_type() == at::kByte, "[resize_mask] needs uint8 values, got ",
                   mask.scalar_type());
  check_size("resize_mask", size);
  check_device("resize_mask", mask);

  const at::Tensor in = mask.contiguous();
  const ResizeShape shape{in.size(0), in.size(1), size.height, size.width, 1};
  const auto indices = rule == "pillow" ? kernels::pillow_nearest : kernels::opencv_nearest;
  const auto rows = indices(shape.in_height, shape.out_height),
             columns = indices(shape.in_width, shape.out_width);
  at::Tensor out = at::empty({size.height, size.width}, in.options());
  if (in.is_cuda()) {
    const c10::DeviceGuard guard(in.device());
    const at::Tensor device_rows = upload(rows, in.device()), device_columns = upload(columns, in.device());
    kernels::resize_nearest_cuda(in.const_data_ptr<uint8_t>(), shape, pointer<int32_t>(device_rows),
                                 pointer<int32_t>(device_columns), out.mutable_data_ptr<uint8_t>(),
                                 current_stream(in));
  } else {
    kernels::resize_nearest(in.const_data_ptr<uint8_t>(), shape, rows.data(), columns.data(),
                            out.mutable_data_ptr<uint8_t>());
  }
  return out;
}

}  // namespace instseg
