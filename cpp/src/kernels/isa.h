// SPDX-License-Identifier: Apache-2.0
#pragma once

// A marked function is compiled once per instruction set; the loader picks the best for the machine, so one
// binary serves all. AddressSanitizer is left out: its runtime may not be ready when the loader asks.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__) && \
    !defined(__SANITIZE_ADDRESS__)
#define INSTSEG_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// Without fused multiply-add, for results that must not depend on the machine.
#define INSTSEG_CLONES_NO_FMA __attribute__((target_clones("avx2", "default")))
#else
#define INSTSEG_CLONES
#define INSTSEG_CLONES_NO_FMA
#endif
