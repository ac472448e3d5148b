// The border to the CUDA module: what it offers besides the kernels themselves. The module is a
// shared library of its own, opened when a GPU is wanted, so that programs start and build without
// CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace quantd::kernels {

struct Backend;

// output[m, rows] = input[m, columns] * weight[rows, columns]^T, all binary16 or all bfloat16.
struct Gemm16 {
  int64_t m = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  bool bfloat16 = false;
  const uint16_t* input = nullptr;
  const uint16_t* weight = nullptr;
  uint16_t* output = nullptr;
  void* stream = nullptr;
};

// Functions on the GPU's memory, for programs without a tensor library (tests, benchmarks). A
// stream is a cudaStream_t, null the default one. Errors stay until TakeError asks for them.
struct DeviceOps {
  // The error since the last call, empty for none; waits for `stream` first.
  std::string (*take_error)(void* stream);
  void* (*allocate)(size_t bytes);  // Null when there is not enough.
  void (*release)(void* memory);
  void (*copy)(void* to, const void* from, size_t bytes);  // Either side on either device.
  void (*copy_on)(void* to, const void* from, size_t bytes, void* stream);
  void (*fill)(void* memory, int byte, size_t bytes);
  // Everything that `body` puts on the stream it is given, as one CUDA graph; body runs once, and
  // must have run before, so that what is loaded on first use is loaded. Null where it cannot be
  // captured, with the reason in `*why`.
  void* (*capture_graph)(void (*body)(void* context, void* stream), void* context,
                         std::string* why);
  bool (*launch_graph)(void* graph, void* stream);
  void (*release_graph)(void* graph);
  // Median seconds of `replays` runs of everything that `body` puts on the stream it is given, as
  // one CUDA graph. Negative when it cannot be captured.
  double (*time_graph)(void (*body)(void* context, void* stream), void* context, int replays);
  std::string (*describe)();   // "NVIDIA H100 80GB HBM3, driver 13.0, 132 processors, L2 50 MiB"
  size_t (*cache_bytes)();     // Of the L2.
  double (*read_bandwidth)();  // Bytes a second that a plain read of 2 GiB reaches; measured.
  // cuBLAS, to compare with. Returns an error's text, or null.
  const char* (*gemm_16)(const Gemm16&);
};

struct CudaModule {
  const Backend* backend = nullptr;
  DeviceOps device;
};

// Opened once, from the folder of the program or from the linker's path, and only if it finds a GPU
// that it was compiled for. Null otherwise, and `*why` (may be null) says what is missing.
const CudaModule* LoadCudaModule(std::string* why);

// The one symbol that the module exports under the name kCudaModuleSymbol. Null, with the reason in
// `*why`, where no device can be used.
using CudaModuleEntry = const CudaModule* (*)(std::string* why);
constexpr const char* kCudaModuleSymbol = "QuantdCudaModule";

}  // namespace quantd::kernels
