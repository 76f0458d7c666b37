// SPDX-License-Identifier: Apache-2.0
#include "kernels/focal_loss.h"
#include "kernels/launch.cuh"

// The formulas are those of focal_loss.cpp.
namespace instseg::kernels {
namespace {

struct Terms {
  float sigmoid, complement, softplus, power;
};

__device__ Terms terms(float z, float gamma) {
  const float e = expf(-fabsf(z));
  const float large = 1.0f / (1.0f + e), small = e * large, log_term = log1pf(e);
  Terms t;
  t.sigmoid = z < 0 ? small : large;
  t.complement = z < 0 ? large : small;
  t.softplus = (z < 0 ? 0.0f : z) + log_term;
  t.power = gamma == 2.0f ? t.sigmoid * t.sigmoid : expf(-gamma * ((z < 0 ? -z : 0.0f) + log_term));
  return t;
}

template <class T>
__global__ void sum_losses(const T* logits, const int64_t* labels, int64_t size, int64_t classes,
                           FocalParams params, double* partials) {
  __shared__ double sums[kThreads];
  double sum = 0;
  for (int64_t i = thread_index(); i < size; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const bool positive = labels[i / classes] == i % classes;
    const float logit = to_float(logits[i]);
    const Terms t = terms(positive ? -logit : logit, params.gamma);
    sum += (positive ? params.alpha : 1.0f - params.alpha) * t.power * t.softplus;
  }
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) partials[blockIdx.x] = sums[0];
}

template <class T>
__global__ void write_slopes(const T* logits, const int64_t* labels, int64_t size, int64_t classes,
                             FocalParams params, const float* scale, T* grad) {
  const int64_t i = thread_index();
  if (i >= size) return;
  const bool positive = labels[i / classes] == i % classes;
  const float logit = to_float(logits[i]);
  const Terms t = terms(positive ? -logit : logit, params.gamma);
  const float slope = t.power * (params.gamma * t.complement * t.softplus + t.sigmoid);
  store(grad + i, *scale * (positive ? -params.alpha : 1.0f - params.alpha) * slope);
}

}  // namespace

void focal_loss_cuda(const void* logits, ScalarKind kind, const int64_t* labels, int64_t rows,
                     int64_t classes, FocalParams params, double* partials, void* stream) {
  with_device_scalar(kind, [&]<class T>(T) {
    sum_losses<<<kFocalPartials, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(logits), labels, rows * classes, classes, params, partials);
  });
  check_launch("sigmoid_focal_loss");
}

void focal_loss_backward_cuda(const void* logits, ScalarKind kind, const int64_t* labels, int64_t rows,
                              int64_t classes, FocalParams params, const float* scale, void* grad,
                              void* stream) {
  if (rows == 0) return;
  with_device_scalar(kind, [&]<class T>(T) {
    write_slopes<<<blocks_for(rows * classes), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(logits), labels, rows * classes, classes, params, scale, static_cast<T*>(grad));
  });
  check_launch("sigmoid_focal_loss");
}

}  // namespace instseg::kernels
