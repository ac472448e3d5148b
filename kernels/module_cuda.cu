// The module's entry: its column of the dispatch table and the device's memory.
#include <algorithm>
#include <vector>

#include "kernels/module_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr Backend kCuda = {.name = "cuda",
                           .find_params = FindParamsCuda,
                           .rtn_rows = RtnRowsCuda,
                           .pack_bits = PackBitsCuda,
                           .unpack_bits = UnpackBitsCuda,
                           .gptq_block = GptqBlockCuda,
                           .dequantize_rows = DequantizeRowsCuda,
                           .quantize_codebook = QuantizeCodebookCuda,
                           .dequantize_codebook = DequantizeCodebookCuda,
                           .hqq_groups = HqqGroupsCuda,
                           .hadamard_rows = HadamardRowsCuda,
                           .pack_w4 = PackW4Cuda,
                           .unpack_w4 = UnpackW4Cuda,
                           .gemm_w4a16 = GemmW4A16Cuda,
                           .quantize_rows = QuantizeRowsCuda,
                           .gemm_w8a8 = GemmW8A8Cuda,
                           .norm_rows = NormRowsCuda,
                           .gate_rows = GateRowsCuda,
                           .rope_heads = RopeHeadsCuda,
                           .log_prob_rows = LogProbRowsCuda,
                           .embed_rows = EmbedRowsCuda,
                           .step_product = StepProductCuda,
                           .step_attention = StepAttentionCuda};

std::string TextOf(cudaError_t error) {
  if (error == cudaSuccess) return {};
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

std::string TakeError(void* stream) {
  const cudaError_t running = cudaStreamSynchronize(static_cast<cudaStream_t>(stream));
  const cudaError_t launching = cudaGetLastError();
  return TextOf(launching != cudaSuccess ? launching : running);
}

void* Allocate(size_t bytes) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, std::max<size_t>(bytes, 1)) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  return memory;
}

void Release(void* memory) { cudaFree(memory); }
void Copy(void* to, const void* from, size_t bytes) {
  cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
}
void CopyOn(void* to, const void* from, size_t bytes, void* stream) {
  cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream));
}
void Fill(void* memory, int byte, size_t bytes) { cudaMemset(memory, byte, bytes); }

// Median seconds of the replays of `graph`.
double TimeReplays(cudaGraphExec_t graph, cudaStream_t stream, int replays) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  constexpr int kWarmUp = 3;
  for (int i = 0; i < kWarmUp + replays; ++i) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(graph, stream);
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float milliseconds = -1;
    if (cudaEventElapsedTime(&milliseconds, begin, end) != cudaSuccess) return -1;
    if (i >= kWarmUp) times.push_back(milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] * 1e-3;
}

// What `body` puts on a stream, ready to be run again and again; null, with the reason in `*why`,
// where it cannot be captured.
void* CaptureGraph(void (*body)(void* context, void* stream), void* context, std::string* why) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess)
    error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error == cudaSuccess) {
    body(context, stream);
    error = cudaStreamEndCapture(stream, &graph);
  }
  if (error == cudaSuccess) error = cudaGraphInstantiate(&executable, graph, 0);
  if (error != cudaSuccess) cudaGetLastError();
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (stream != nullptr) cudaStreamDestroy(stream);
  *why = TextOf(error);
  return executable;
}

bool LaunchGraph(void* graph, void* stream) {
  return cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)) ==
         cudaSuccess;
}

void ReleaseGraph(void* graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

double TimeGraph(void (*body)(void* context, void* stream), void* context, int replays) {
  cudaStream_t stream;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  // Once outside, so that what is loaded on first use is loaded.
  body(context, stream);
  cudaStreamSynchronize(stream);
  double seconds = -1;
  std::string why;
  if (void* graph = CaptureGraph(body, context, &why)) {
    seconds = TimeReplays(static_cast<cudaGraphExec_t>(graph), stream, replays);
    ReleaseGraph(graph);
  }
  cudaStreamDestroy(stream);
  return seconds;
}

cudaDeviceProp Properties() {
  int device = 0;
  cudaDeviceProp properties{};
  cudaGetDevice(&device);
  cudaGetDeviceProperties(&properties, device);
  return properties;
}

std::string Describe() {
  const cudaDeviceProp properties = Properties();
  int driver = 0;
  cudaDriverGetVersion(&driver);
  return std::string(properties.name) + ", CUDA driver " + std::to_string(driver / 1000) + "." +
         std::to_string(driver % 1000 / 10) + ", " +
         std::to_string(properties.multiProcessorCount) + " processors, " +
         std::to_string(properties.l2CacheSize >> 20) + " MiB L2";
}

size_t CacheBytes() { return static_cast<size_t>(Properties().l2CacheSize); }

__global__ void __launch_bounds__(512) ReadKernel(const uint4* data, int64_t count, uint4* sink) {
  uint32_t sum = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
#pragma unroll 8
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    const uint4 value = __ldcs(data + i);
    sum += value.x ^ value.y ^ value.z ^ value.w;
  }
  // Hardly ever true, but the compiler cannot know.
  if (sum == 0x9e3779b9u) sink->x = sum;
}

struct ReadContext {
  void* data;
  int64_t bytes;
};

double ReadBandwidth() {
  static double known = 0;
  if (known > 0) return known;
  ReadContext context = {nullptr, int64_t{2} << 30};
  context.data = Allocate(context.bytes);
  if (context.data == nullptr) return 0;
  Fill(context.data, 0x5a, context.bytes);
  const double seconds = TimeGraph(
      [](void* raw, void* stream) {
        const auto& context = *static_cast<ReadContext*>(raw);
        ReadKernel<<<CurrentGpu().processors * 4, 512, 0, static_cast<cudaStream_t>(stream)>>>(
            static_cast<const uint4*>(context.data), context.bytes / 16,
            static_cast<uint4*>(context.data));
      },
      &context, 20);
  Release(context.data);
  known = seconds > 0 ? static_cast<double>(context.bytes) / seconds : 0;
  return known;
}

}  // namespace

const Gpu& CurrentGpu() {
  constexpr int kDevicesMax = 64;
  static Gpu known[kDevicesMax];
  int device = 0;
  cudaGetDevice(&device);
  Gpu& gpu = known[device % kDevicesMax];
  if (gpu.processors == 0) {
    // Written alike by every thread that comes here first.
    int value = 0, minor = 0;
    cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    gpu.shared_bytes_max = value;
    cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    gpu.capability = value * 10 + minor;
    cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
    gpu.processors = value;
  }
  return gpu;
}

extern "C" __attribute__((visibility("default"))) const CudaModule* QuantdCudaModule(
    std::string* why) {
  static const CudaModule module = {
      &kCuda,
      {TakeError, Allocate, Release, Copy, CopyOn, Fill, CaptureGraph, LaunchGraph, ReleaseGraph,
       TimeGraph, Describe, CacheBytes, ReadBandwidth, Gemm16Cublas}};
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    cudaGetLastError();
    *why = error != cudaSuccess ? TextOf(error) : "the driver sees no device";
    return nullptr;
  }
  if (CurrentGpu().capability < 80) {
    *why = "the GPU's compute capability is " + std::to_string(CurrentGpu().capability / 10) + "." +
           std::to_string(CurrentGpu().capability % 10) + "; the kernels need 8.0";
    return nullptr;
  }
  return &module;
}

}  // namespace quantd::kernels
