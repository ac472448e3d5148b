// Plain loops compiled for several instruction sets, the best one picked when the program starts.
// Sanitizers instrument the pickers, which run before their runtime is ready, so those builds get
// the baseline only.
#pragma once

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define QD_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define QD_MULTIVERSION
#endif

namespace quantd::kernels {
// Rows or columns handled side by side: one AVX-512 register of floats, two of AVX2.
constexpr int kLanes = 16;
}  // namespace quantd::kernels
