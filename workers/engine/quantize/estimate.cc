// See estimate.h. Counts are upper bounds of what was measured (tests/conformance/memory_bound.py),
// not exact.
#include "workers/engine/quantize/estimate.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/quantize/experts.h"
#include "workers/engine/quantize/kept_points.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// libtorch, its buffers and the allocator's slack, as measured on an idle engine.
constexpr int64_t kLibrariesBytes = int64_t{450} << 20;
// Hidden-size and MLP-width tensors alive at once inside a block, and matrices of a Hessian's size
// at the factorization's peak: the Hessian, the reversed copy or U, the factor, the solution.
constexpr int64_t kHiddenTensors = 8;
constexpr int64_t kMlpTensors = 3;
constexpr int64_t kHessianMatrices = 4;
// Copies of a linear while it is quantized: float32 weight, reordered weight, decoded weight and
// codes.
constexpr int64_t kLinearBytesAWeight = 14;
// Tokens a batch when nothing is said, as stream.cc chooses.
constexpr int64_t kBatchTokens = 4096;
// Disk beside the tensors: tokenizer, records, headers.
constexpr int64_t kSmallFilesBytes = int64_t{64} << 20;

int64_t BatchSize(const QuantizePlan& plan, int64_t asked) {
  if (plan.sequences == 0) return 0;
  return std::min(plan.sequences,
                  asked > 0 ? asked : std::max<int64_t>(1, kBatchTokens / plan.sequence_length));
}

// Multiply-adds a second, times two, of a float32 matrix product here.
double MeasureRate(at::Device device) {
  constexpr int64_t kSize = 768;
  constexpr double kSecondsMax = 0.2;
  constexpr double kFallbackRate = 1e10;
  double rate = kFallbackRate;
  // A machine where this fails fails later with a better message.
  TorchCall("measuring the matrix rate", [&] {
    const at::Tensor a = at::ones({kSize, kSize}, at::TensorOptions().device(device));
    const auto start = std::chrono::steady_clock::now();
    double seconds = 0;
    double best = std::numeric_limits<double>::max();
    while (seconds < kSecondsMax) {
      const double before = seconds;
      const at::Tensor product = at::matmul(a, a);
      product[0][0].item<float>();
      seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      best = std::min(best, seconds - before);
    }
    rate = 2.0 * kSize * kSize * kSize / best;
  }).IgnoreError();
  return rate;
}

// What the blocks of a model need at most: dense layers and mixtures of experts may stand in one.
struct LargestBlock {
  int64_t weights = 0;        // Of one block.
  int64_t linear = 0;         // Weights of one linear.
  int64_t inputs = 0;         // Columns of one linear, which are the values inside a block too.
  int64_t quantized = 0;      // Columns of one that is quantized.
  int64_t hessian_bytes = 0;  // Held at once.
};

LargestBlock Largest(const QuantizePlan& plan) {
  const bool sequential = plan.options.value("true_sequential", false);
  LargestBlock largest;
  for (const std::vector<PlannedLinear>& block : plan.blocks) {
    int64_t weights = 0;
    for (const PlannedLinear& linear : block) {
      const int64_t elements = linear.shape.out * linear.shape.in;
      weights += elements;
      largest.linear = std::max(largest.linear, elements);
      largest.inputs = std::max(largest.inputs, linear.shape.in);
    }
    largest.weights = std::max(largest.weights, weights);
  }
  for (int64_t unit = 0; unit < plan.units(); ++unit) {
    const std::vector<const PlannedLinear*> linears = plan.UnitLinears(unit);
    for (const PlannedLinear* linear : linears) {
      largest.quantized = std::max(largest.quantized, linear->shape.in);
    }
    largest.hessian_bytes = std::max(largest.hessian_bytes, HeldHessianBytes(linears, sequential));
  }
  return largest;
}

// Floating-point operations of the whole job.
double Operations(const QuantizePlan& plan) {
  const double tokens =
      static_cast<double>(plan.sequences) * static_cast<double>(plan.sequence_length);
  const bool sequential = plan.options.value("true_sequential", false);
  // In front of every group and behind the block; with kept activations each linear once.
  const double passes = plan.sequences == 0 ? 0 : (sequential ? 1.0 : 2.0);
  double operations = 0;
  for (const auto& block : plan.blocks) {
    int group = -1;
    for (const PlannedLinear& linear : block) {
      const double n = static_cast<double>(linear.shape.out);
      const double k = static_cast<double>(linear.shape.in);
      operations += passes * 2 * tokens * n * k;
      if (!plan.needs.hessian || !linear.quantized) continue;
      if (linear.shape.group != group) operations += 1.4 * tokens * k * k + 2 * k * k * k;
      operations += n * k * k;
      group = linear.shape.group;
    }
  }
  return operations;
}

// Bytes read and written by the whole job, at a careful rate for one disk.
constexpr double kDiskBytesPerSecond = 3e8;

}  // namespace

int64_t MemoryParts::WithoutActivations() const {
  return libraries_bytes + outside_blocks_bytes + block_bytes + statistics_bytes + batch_bytes;
}

MemoryParts EstimateMemory(const QuantizePlan& plan, int64_t asked_batch) {
  const ModelConfig& config = plan.config;
  const int64_t element = static_cast<int64_t>(c10::elementSize(plan.dtype));
  const int64_t embedding = config.vocab_size * config.hidden_size;
  MemoryParts parts = {.libraries_bytes = kLibrariesBytes};
  parts.outside_blocks_bytes = embedding * (config.tie_word_embeddings ? 1 : 2) * element;
  const LargestBlock largest = Largest(plan);
  const int64_t linear = std::max(largest.linear, plan.head.quantized ? embedding : 0);
  // Packed tensors of the block wait for the block's file; beside it the original block, where both
  // run.
  const int64_t weight_bytes =
      element * (plan.needs.drift ? 2 : 1) + 1 + 4 * plan.needs.block_copies;
  parts.block_bytes = largest.weights * weight_bytes + linear * kLinearBytesAWeight;
  if (plan.sequences == 0) return parts;
  if (plan.needs.hessian) {
    const int64_t matrix = largest.quantized * largest.quantized * 4;
    parts.statistics_bytes = kHessianMatrices * matrix + largest.hessian_bytes - matrix;
    // As many matrices of drift, one of them in the order of quantization.
    if (plan.needs.drift) parts.statistics_bytes += largest.hessian_bytes + matrix;
  }
  const int64_t tokens = BatchSize(plan, asked_batch) * plan.sequence_length;
  parts.batch_bytes =
      tokens * (kHiddenTensors * config.hidden_size + kMlpTensors * largest.inputs) * element;
  parts.activations_bytes = plan.sequences * plan.sequence_length * config.hidden_size * element;
  if (plan.needs.original) parts.activations_bytes *= 2;
  if (plan.needs.hessian && plan.options.value("true_sequential", false)) {
    parts.kept_bytes = KeptPoints::BytesNeeded(
        config, {.sequences = plan.sequences, .length = plan.sequence_length, .dtype = plan.dtype});
    if (plan.needs.drift) parts.kept_bytes *= 2;
  }
  return parts;
}

QuantizeEstimate EstimatePlan(const QuantizePlan& plan, int64_t batch_size) {
  const MemoryParts parts = EstimateMemory(plan, batch_size);
  QuantizeEstimate estimate;
  const int64_t activations = parts.activations_bytes + parts.kept_bytes;
  const auto devices = static_cast<int64_t>(plan.devices.size());
  estimate.host_memory_bytes = parts.WithoutActivations() + activations;
  if (plan.device.is_cuda()) {
    estimate.device_memory_bytes =
        parts.WithoutActivations() - parts.libraries_bytes + activations / devices;
  }
  // The work folder holds the packed blocks once more.
  estimate.disk_bytes = 2 * plan.output_bytes + kSmallFilesBytes;
  const double bytes = static_cast<double>(plan.checkpoint->total_bytes() + estimate.disk_bytes);
  estimate.seconds = bytes / kDiskBytesPerSecond;
  if (plan.sequences > 0) {
    estimate.seconds +=
        Operations(plan) / MeasureRate(plan.device) / static_cast<double>(plan.devices.size());
  }
  return estimate;
}

absl::StatusOr<ActivationBudget> BudgetActivations(const Runtime& runtime, const QuantizePlan& plan,
                                                   int64_t batch_size) {
  const MemoryParts parts = EstimateMemory(plan, batch_size);
  const auto beside = [&](int64_t promised, int64_t there, int64_t needed) {
    return std::max<int64_t>(0, (promised > 0 ? std::min(promised, there) : there) - needed);
  };
  const HostMemory host = ReadHostMemory();
  ActivationBudget budget;
  budget.host_bytes = beside(runtime.host_memory_bytes, host.available_bytes + host.resident_bytes,
                             parts.WithoutActivations());
  if (plan.device.is_cuda()) {
    int64_t free_bytes = std::numeric_limits<int64_t>::max();
    for (const at::Device device : plan.devices) {
      QD_ASSIGN_OR_RETURN(const DeviceMemory memory, ReadDeviceMemory(device));
      free_bytes = std::min(free_bytes, memory.free_bytes);
    }
    budget.device_bytes = beside(runtime.device_memory_bytes, free_bytes,
                                 parts.WithoutActivations() - parts.libraries_bytes);
  }
  return budget;
}

absl::Status CheckResources(const JobContext& context, const QuantizePlan& plan,
                            int64_t batch_size) {
  const Runtime& runtime = context.spec.runtime;
  const MemoryParts parts = EstimateMemory(plan, batch_size);
  const int64_t host = parts.WithoutActivations();
  const auto short_of = [](absl::string_view what, int64_t needed, int64_t given) {
    return absl::ResourceExhaustedError(absl::StrCat("the job needs about ", FormatBytes(needed),
                                                     " of ", what, ", but ", FormatBytes(given),
                                                     " is there to use"));
  };
  if (runtime.host_memory_bytes > 0 && host > runtime.host_memory_bytes) {
    return WithErrorClass(short_of("host memory", host, runtime.host_memory_bytes),
                          ErrorClass::kOutOfMemory);
  }
  const int64_t device = host - parts.libraries_bytes;
  if (plan.device.is_cuda() && runtime.device_memory_bytes > 0 &&
      device > runtime.device_memory_bytes) {
    return WithErrorClass(short_of("device memory", device, runtime.device_memory_bytes),
                          ErrorClass::kOutOfMemory);
  }
  for (const std::string& folder : {context.work_dir, context.output_dir}) {
    QD_ASSIGN_OR_RETURN(const int64_t free, FreeDiskBytes(folder));
    // Both may lie on one disk; what an earlier attempt wrote is there already and makes this
    // careful.
    const int64_t needed = plan.output_bytes + kSmallFilesBytes;
    if (free < needed) {
      return WithErrorClass(short_of(absl::StrCat("disk space in ", folder), needed, free),
                            ErrorClass::kDiskFull);
    }
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
