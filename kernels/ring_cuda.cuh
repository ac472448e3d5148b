// A warp's ring of stages in shared memory, filled ahead of their use: on Hopper and later by the
// bulk copy engine (a handful of instructions a stage), before that by cp.async.
#pragma once

#include "kernels/module_cuda.cuh"

namespace quantd::kernels {

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define QD_BULK_COPIES 1
#else
#define QD_BULK_COPIES 0
#endif

__device__ inline void BarrierInit(uint32_t barrier, int arrivals) {
#if QD_BULK_COPIES
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
#endif
}

// Makes initialized barriers known to the copy engine.
__device__ inline void BarrierInitDone() {
#if QD_BULK_COPIES
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ inline void BarrierExpect(uint32_t barrier, uint32_t bytes) {
#if QD_BULK_COPIES
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#endif
}

// The barrier counts this thread once its cp.async so far are complete.
__device__ inline void BarrierArriveAfterCopies(uint32_t barrier) {
#if QD_BULK_COPIES
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

// The kernel after this one on the stream may start, if it was launched to allow that,
__device__ inline void LetNextStart() {
#if QD_BULK_COPIES
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// and the kernel before this one has ended, with all it wrote.
__device__ inline void WaitForPrevious() {
#if QD_BULK_COPIES
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void BarrierArrive(uint32_t barrier) {
#if QD_BULK_COPIES
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}

__device__ inline void BarrierWait(uint32_t barrier, uint32_t parity) {
#if QD_BULK_COPIES
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

// `bytes` from global to shared memory, both 16-byte aligned and a multiple of 16 long; the barrier
// counts them.
__device__ inline void BulkCopy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
#if QD_BULK_COPIES
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
#endif
}

__device__ inline void CopyAsync16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// Or 16 zero bytes.
__device__ inline void CopyAsync16OrZero(uint32_t to, const void* from, bool copy) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(copy ? 16 : 0)
               : "memory");
}
__device__ inline void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `pending` groups are on their way.
__device__ inline void CopyAsyncWait(int pending) {
  switch (pending) {
    case 0:
      asm volatile("cp.async.wait_group 0;" ::: "memory");
      return;
    case 1:
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      return;
    case 2:
      asm volatile("cp.async.wait_group 2;" ::: "memory");
      return;
    case 3:
      asm volatile("cp.async.wait_group 3;" ::: "memory");
      return;
    case 4:
      asm volatile("cp.async.wait_group 4;" ::: "memory");
      return;
    case 5:
      asm volatile("cp.async.wait_group 5;" ::: "memory");
      return;
    default:
      asm volatile("cp.async.wait_group 6;" ::: "memory");
      return;
  }
}

struct Launch {
  dim3 blocks;
  int threads;
  int shared_bytes;
  cudaStream_t stream;
  int cluster = 1;  // Blocks along z that are one cluster; Hopper.
};

// Launches a kernel that calls WaitForPrevious before it touches what earlier work may use: on GPUs
// that can, it begins while that work ends. Returns an error's text, or null.
template <typename... Args>
const char* LaunchEarly(void (*kernel)(Args...), const Launch& launch, Args... args) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {1, 1, static_cast<unsigned>(launch.cluster)};
  cudaLaunchConfig_t config = {};
  config.gridDim = launch.blocks;
  config.blockDim = launch.threads;
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = launch.stream;
  config.attrs = attributes;
  config.numAttrs = CurrentGpu().capability < 90 ? 0 : launch.cluster > 1 ? 2 : 1;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, args...);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace quantd::kernels
