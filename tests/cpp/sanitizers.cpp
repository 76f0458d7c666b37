// SPDX-License-Identifier: Apache-2.0
// Defaults of the sanitizers' run time for every test program; $ASAN_OPTIONS and friends still override them.

// libtorch is not instrumented: its globals also live in headers compiled here, which ASan would report as
// ODR violations, and what it never frees at exit would be reported as leaks.
extern "C" const char* __asan_default_options() {
  return "detect_odr_violation=0:detect_stack_use_after_return=1";
}

extern "C" const char* __lsan_default_suppressions() {
  return "leak:libtorch_cpu.so\nleak:libc10.so\nleak:libgomp.so\n";
}

extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1"; }
