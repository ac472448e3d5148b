// wgmma with the left operand in registers: D[64 x kColumns] += A[64 x 16] * B[16 x kColumns], B in
// shared memory, 128-byte swizzled with 16-bit elements along the sum contiguous. Hopper only; the
// instruction names every register of D, so each width is written out.
#pragma once

#include "kernels/gemm_w4a16_cuda.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define QD_WGMMA 1
#else
#define QD_WGMMA 0
#endif

namespace quantd::kernels {

__device__ inline void WgmmaFence() {
#if QD_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void WgmmaCommit() {
#if QD_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int kPending>
__device__ inline void WgmmaWait() {
#if QD_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// A matrix in shared memory whose rows of 128 bytes are swizzled in groups of eight.
__device__ inline uint64_t WgmmaMatrix(uint32_t address) {
  constexpr uint64_t kGroupBytes = 1024, kSwizzle128 = 1;
  return (address & 0x3ffff) >> 4 | uint64_t{1} << 16 | (kGroupBytes >> 4) << 32 |
         kSwizzle128 << 62;
}

#define QD_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define QD_D16(d, i) QD_D4(d, i), QD_D4(d, i + 4), QD_D4(d, i + 8), QD_D4(d, i + 12)

#define QD_WGMMA_16(type)                                                  \
  asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32." type "." type \
               " {"                                                        \
               "%0, %1, %2, %3, %4, %5, %6, %7"                            \
               "}, {%8, %9, %10, %11}, %12, 1, 1, 1, 0;"                   \
               : QD_D4(d, 0), QD_D4(d, 4)                                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define QD_WGMMA_32(type)                                                             \
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type            \
               " {"                                                                   \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
               "}, {%16, %17, %18, %19}, %20, 1, 1, 1, 0;"                            \
               : QD_D16(d, 0)                                                         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define QD_WGMMA_64(type)                                                                    \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                   \
               " {"                                                                          \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
               "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"   \
               "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"                                   \
               : QD_D16(d, 0), QD_D16(d, 16)                                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define QD_WGMMA_128(type)                                                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                  \
               " {"                                                                          \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
               "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
               "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
               "%62, %63"                                                                    \
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"                                   \
               : QD_D16(d, 0), QD_D16(d, 16), QD_D16(d, 32), QD_D16(d, 48)                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <typename Type, int kColumns>
__device__ inline void Wgmma(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b) {
#if QD_WGMMA
#define QD_WGMMA_BOTH(columns)                \
  if constexpr (std::is_same_v<Type, Half>) { \
    QD_WGMMA_##columns("f16");                \
  } else {                                    \
    QD_WGMMA_##columns("bf16");               \
  }
  if constexpr (kColumns == 16) {
    QD_WGMMA_BOTH(16)
  } else if constexpr (kColumns == 32) {
    QD_WGMMA_BOTH(32)
  } else if constexpr (kColumns == 64) {
    QD_WGMMA_BOTH(64)
  } else {
    QD_WGMMA_BOTH(128)
  }
#undef QD_WGMMA_BOTH
#endif
}

#undef QD_WGMMA_16
#undef QD_WGMMA_32
#undef QD_WGMMA_64
#undef QD_WGMMA_128
#undef QD_D16
#undef QD_D4

// The same of int8 with both operands in shared memory: D[64 x kColumns] += A[64 x 32] * B[32 x
// kColumns] in int32.
#define QD_I4(d, i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define QD_I16(d, i) QD_I4(d, i), QD_I4(d, i + 4), QD_I4(d, i + 8), QD_I4(d, i + 12)
#define QD_WGMMA_S8_16                                     \
  asm volatile(                                            \
      "wgmma.mma_async.sync.aligned.m64n16k32.s32.s8.s8 {" \
      "%0, %1, %2, %3, %4, %5, %6, %7"                     \
      "}, %8, %9, 1;"                                      \
      : QD_I4(d, 0), QD_I4(d, 4)                           \
      : "l"(a), "l"(b))

#define QD_WGMMA_S8_32                                                       \
  asm volatile(                                                              \
      "wgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8 {"                   \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
      "}, %16, %17, 1;"                                                      \
      : QD_I16(d, 0)                                                         \
      : "l"(a), "l"(b))

#define QD_WGMMA_S8_64                                                              \
  asm volatile(                                                                     \
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {"                          \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"   \
      "}, %32, %33, 1;"                                                             \
      : QD_I16(d, 0), QD_I16(d, 16)                                                 \
      : "l"(a), "l"(b))

#define QD_WGMMA_S8_128                                                             \
  asm volatile(                                                                     \
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"                         \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
      "%62, %63"                                                                    \
      "}, %64, %65, 1;"                                                             \
      : QD_I16(d, 0), QD_I16(d, 16), QD_I16(d, 32), QD_I16(d, 48)                   \
      : "l"(a), "l"(b))

#define QD_WGMMA_S8_256                                                                            \
  asm volatile(                                                                                    \
      "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {"                                        \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                     \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "           \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "           \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "           \
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "           \
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "           \
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "     \
      "%111, "                                                                                     \
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, " \
      "%127"                                                                                       \
      "}, %128, %129, 1;"                                                                          \
      : QD_I16(d, 0), QD_I16(d, 16), QD_I16(d, 32), QD_I16(d, 48), QD_I16(d, 64), QD_I16(d, 80),   \
        QD_I16(d, 96), QD_I16(d, 112)                                                              \
      : "l"(a), "l"(b))

template <int kColumns>
__device__ inline void WgmmaInt8(int32_t (&d)[kColumns / 2], uint64_t a, uint64_t b) {
#if QD_WGMMA
  if constexpr (kColumns == 16) {
    QD_WGMMA_S8_16;
  } else if constexpr (kColumns == 32) {
    QD_WGMMA_S8_32;
  } else if constexpr (kColumns == 64) {
    QD_WGMMA_S8_64;
  } else if constexpr (kColumns == 128) {
    QD_WGMMA_S8_128;
  } else {
    QD_WGMMA_S8_256;
  }
#endif
}

#undef QD_WGMMA_S8_16
#undef QD_WGMMA_S8_32
#undef QD_WGMMA_S8_64
#undef QD_WGMMA_S8_128
#undef QD_WGMMA_S8_256
#undef QD_I16
#undef QD_I4

}  // namespace quantd::kernels
