// cuBLAS's 16-bit product, which the fast paths are measured against. Opened at run time from where
// the program's tensor library already has it, so that the module itself needs nothing but a
// driver.
#include <cublas_v2.h>
#include <dlfcn.h>

#include "kernels/module_cuda.cuh"

namespace quantd::kernels {
namespace {

// cublasGemmEx is overloaded in C++; this is the one that the library exports.
using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int,
                                  int, const void*, const void*, cudaDataType, int, const void*,
                                  cudaDataType, int, const void*, void*, cudaDataType, int,
                                  cublasComputeType_t, cublasGemmAlgo_t);

struct Cublas {
  GemmEx gemm = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  cublasHandle_t handle = nullptr;
  void* workspace = nullptr;
};

constexpr size_t kWorkspaceBytes = 64 << 20;

const Cublas& TheCublas() {
  static const Cublas cublas = [] {
    Cublas found;
    void* library = dlopen("libcublas.so.13", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return found;
    const auto load = [&]<typename F>(const char* name, F* function) {
      *function = reinterpret_cast<F>(dlsym(library, name));
    };
    decltype(&cublasCreate_v2) create = nullptr;
    load("cublasCreate_v2", &create);
    load("cublasSetStream_v2", &found.set_stream);
    load("cublasSetWorkspace_v2", &found.set_workspace);
    load("cublasGemmEx", &found.gemm);
    if (create == nullptr || create(&found.handle) != CUBLAS_STATUS_SUCCESS) return Cublas{};
    if (cudaMalloc(&found.workspace, kWorkspaceBytes) != cudaSuccess) return Cublas{};
    return found;
  }();
  return cublas;
}

}  // namespace

const char* Gemm16Cublas(const Gemm16& args) {
  const Cublas& cublas = TheCublas();
  if (cublas.handle == nullptr) return "libcublas.so.13 cannot be used";
  const float one = 1, zero = 0;
  const cudaDataType type = args.bfloat16 ? CUDA_R_16BF : CUDA_R_16F;
  const int m = static_cast<int>(args.m);
  const int n = static_cast<int>(args.rows);
  const int k = static_cast<int>(args.columns);
  cublas.set_stream(cublas.handle, Stream(args));
  cublas.set_workspace(cublas.handle, cublas.workspace, kWorkspaceBytes);
  // Column-major there: output^T [n, m] = weight [n, k] * input^T.
  const cublasStatus_t status = cublas.gemm(
      cublas.handle, CUBLAS_OP_T, CUBLAS_OP_N, n, m, k, &one, args.weight, type, k, args.input,
      type, k, &zero, args.output, type, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  return status == CUBLAS_STATUS_SUCCESS ? nullptr : "cublasGemmEx failed";
}

}  // namespace quantd::kernels
