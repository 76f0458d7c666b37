// SPDX-License-Identifier: Apache-2.0
#pragma once

// A marked function is compiled once per instruction set; the loader picks the best for the machine, so one
// binary serves all. AddressSanitizer is left out: its runtime may not be ready when the loader asks.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__) && \
    !defined(__SANITIZE_ADDRESS__)
#define INSTSEG_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// Without fused multiply-add, for results that must not depend on the machine.
#define INSTSEG_CLONES_NO_FMA __attribute__((target_clones("avx2", "default")))
// One instruction set by name, for kernels written for a number of lanes: GCC splits longer vectors badly.
#define INSTSEG_V4 __attribute__((target("arch=x86-64-v4")))
#define INSTSEG_V3 __attribute__((target("arch=x86-64-v3")))
// Counts bits in vector registers; call it where has_vector_popcount() says so.
#define INSTSEG_VECTOR_POPCOUNT __attribute__((target("arch=x86-64-v4,avx512vpopcntdq")))
#define INSTSEG_HAS_LEVELS 1
#else
#define INSTSEG_CLONES
#define INSTSEG_CLONES_NO_FMA
#define INSTSEG_V4
#define INSTSEG_V3
#define INSTSEG_VECTOR_POPCOUNT
#define INSTSEG_HAS_LEVELS 0
#endif

// Before a loop whose iterations touch different elements: it is vectorised without checks for overlap.
#if defined(__GNUC__) && !defined(__clang__)
#define INSTSEG_INDEPENDENT _Pragma("GCC ivdep")
#elif defined(__clang__)
#define INSTSEG_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INSTSEG_INDEPENDENT
#endif
namespace instseg::kernels {

/** Floats in a vector register of this machine: 16 (INSTSEG_V4), 8 (INSTSEG_V3) or 4. */
inline int float_lanes() {
#if INSTSEG_HAS_LEVELS
  if (__builtin_cpu_supports("x86-64-v4")) return 16;
  if (__builtin_cpu_supports("x86-64-v3")) return 8;
#endif
  return 4;
}

/** Whether this machine runs functions marked INSTSEG_VECTOR_POPCOUNT. */
inline bool has_vector_popcount() {
#if INSTSEG_HAS_LEVELS
  return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vpopcntdq");
#else
  return false;
#endif
}

}  // namespace instseg::kernels
