// SPDX-License-Identifier: Apache-2.0
#pragma once

// Formulas written once for CPU and GPU. The *_rn functions are never fused into a multiply-add, so that both
// devices and every instruction set round alike where a comparison depends on it.
#ifdef __CUDACC__
#define INSTSEG_HD __host__ __device__ __forceinline__
#else
#define INSTSEG_HD inline
#endif

namespace instseg::kernels {

#ifdef __CUDA_ARCH__
__device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub_rn(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float div_rn(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ double mul_rn(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double add_rn(double a, double b) { return __dadd_rn(a, b); }
#else
INSTSEG_HD float mul_rn(float a, float b) { return a * b; }
INSTSEG_HD float add_rn(float a, float b) { return a + b; }
INSTSEG_HD float sub_rn(float a, float b) { return a - b; }
INSTSEG_HD float div_rn(float a, float b) { return a / b; }
INSTSEG_HD double mul_rn(double a, double b) { return a * b; }
INSTSEG_HD double add_rn(double a, double b) { return a + b; }
#endif

}  // namespace instseg::kernels
