// Loading, with one step back from the GPU to the CPU.
#include "workers/engine/evaluation/loaded_model.h"

#include <future>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/formats/gguf_tokenizer.h"
#include "workers/engine/formats/open.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/models/attention.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// Activations and logits of a batch (scorer.cc bounds them) and the libraries themselves.
constexpr int64_t kWorkingBytes = int64_t{512} << 20;

// "auto": float32 on a CPU, the checkpoint's own dtype on a GPU.
absl::StatusOr<at::ScalarType> ComputeDtype(const Runtime& runtime, at::Device device,
                                            const ModelConfig& config) {
  if (!runtime.dtype.empty() && runtime.dtype != "auto") return ParseComputeDtype(runtime.dtype);
  if (device.is_cpu()) return at::kFloat;
  return config.dtype.empty() ? at::kBFloat16 : ParseComputeDtype(config.dtype);
}

// Weights in the compute dtype and room to work; refuses what the runtime's promise forbids before
// anything is loaded.
absl::Status CheckMemory(const ModelConfig& config, const Runtime& runtime, at::Device device,
                         at::ScalarType dtype) {
  const int64_t limit = device.is_cpu() ? runtime.host_memory_bytes : runtime.device_memory_bytes;
  if (limit <= 0) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const Architecture* row, FindArchitecture(config));
  const int64_t needed =
      ParameterCount(config, *row) * static_cast<int64_t>(c10::elementSize(dtype)) + kWorkingBytes;
  if (needed <= limit) return absl::OkStatus();
  return WithErrorClass(
      absl::ResourceExhaustedError(
          absl::StrCat("the model needs ", FormatBytes(needed), " in ", ComputeDtypeName(dtype),
                       ", but runtime.", device.is_cpu() ? "hostMemoryBytes" : "deviceMemoryBytes",
                       " is ", FormatBytes(limit))),
      ErrorClass::kOutOfMemory);
}

absl::StatusOr<Model> LoadOn(const std::shared_ptr<const Checkpoint>& checkpoint,
                             const Runtime& runtime, at::Device device) {
  QD_ASSIGN_OR_RETURN(const std::unique_ptr<WeightSource> weights, OpenWeights(checkpoint));
  QD_ASSIGN_OR_RETURN(const at::ScalarType dtype,
                      ComputeDtype(runtime, device, checkpoint->config()));
  QD_RETURN_IF_ERROR(CheckMemory(checkpoint->config(), runtime, device, dtype));
  return Model::Load(checkpoint->config(), *weights,
                     {.device = device, .dtype = dtype, .packed = !runtime.reference});
}

// The GPU's libraries are loaded and find their kernels when they are first used, some tenths of a
// second. What goes wrong will do so again where it can be reported.
void StartLibraries(at::Device device, const Runtime& runtime, const ModelConfig& config) {
  if (device.is_cpu()) return;
  const absl::StatusOr<at::ScalarType> dtype = ComputeDtype(runtime, device, config);
  if (!dtype.ok()) return;
  TorchCall("starting the libraries", [&] {
    constexpr int64_t kTokens = 1024;  // As many as attention of long sequences has.
    const at::TensorOptions options = at::TensorOptions(device).dtype(*dtype);
    const at::Tensor heads = at::zeros({1, 1, kTokens, 64}, options);
    const at::Tensor attended = Attend(heads, heads, heads, {});
    at::matmul(attended, at::zeros({64, 64}, options));
  }).IgnoreError();
}

}  // namespace

std::optional<int64_t> LoadedModel::BosId() const {
  if (model->config().bos_token_id) return model->config().bos_token_id;
  if (tokenizer->bos_id()) return *tokenizer->bos_id();
  return std::nullopt;
}

absl::StatusOr<std::vector<int64_t>> LoadedModel::Encode(absl::string_view text,
                                                         bool special) const {
  QD_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                      tokenizer->Encode(text, {.add_special_tokens = special}));
  const int64_t vocabulary = model->config().vocab_size;
  for (int32_t id : ids) {
    if (id >= vocabulary) {
      return absl::FailedPreconditionError(
          absl::StrCat("the tokenizer gives id ", id, ", but the model has only ", vocabulary,
                       " tokens: tokenizer.json and config.json do not belong together"));
    }
  }
  return std::vector<int64_t>(ids.begin(), ids.end());
}

std::string LoadedModel::Decode(absl::Span<const int64_t> ids) const {
  return tokenizer->Decode(std::vector<int32_t>(ids.begin(), ids.end()),
                           {.skip_special_tokens = true});
}

std::string LoadedModel::DeviceName() const {
  const at::Device device = model->decoder().device();
  for (const DeviceInfo& info : ListDevices()) {
    if (info.type == (device.is_cpu() ? "cpu" : "cuda")) return info.name;
  }
  return device.str();
}

std::string LoadedModel::DtypeName() const {
  return std::string(ComputeDtypeName(model->decoder().dtype()));
}

absl::StatusOr<LoadedModel> LoadModel(JobContext& context, const std::string& reference) {
  const Runtime& runtime = context.spec.runtime;
  LoadedModel loaded;
  QD_ASSIGN_OR_RETURN(loaded.folder, context.ResolveModel(reference));
  const absl::Duration start = Clock::Real().Monotonic();
  context.events.Progress({"load", 0, 1, "model"});
  // First of all: libtorch looks for CUDA once, at the first thing that is asked of it.
  QD_ASSIGN_OR_RETURN(at::Device device, SelectDevice(runtime.device), "choosing the device");
  QD_RETURN_IF_ERROR(CheckKernels(device));
  SetThreads(runtime.threads);
  QD_RETURN_IF_ERROR(SetDeterministic(runtime.seed));
  QD_ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint,
                      Checkpoint::Open(loaded.folder), "opening the model");
  // Beside loading, which needs neither.
  std::future<std::string> digest =
      std::async(std::launch::async, [&] { return checkpoint->Digest(); });
  const std::future<void> started = std::async(
      std::launch::async, [&] { StartLibraries(device, runtime, checkpoint->config()); });
  absl::StatusOr<Model> model = LoadOn(checkpoint, runtime, device);
  if (!model.ok() && IsOutOfMemory(model.status()) && device.is_cuda() &&
      !absl::StartsWith(runtime.device, "cuda")) {
    context.events.Fallback(
        "cpu", "", absl::StrCat("the model does not fit the GPU: ", model.status().message()));
    EmptyDeviceCache(device);
    model = LoadOn(checkpoint, runtime, at::kCPU);
  }
  QD_RETURN_IF_ERROR(model.status(), "loading ", loaded.folder);
  loaded.model = std::make_unique<Model>(*std::move(model));
  QD_ASSIGN_OR_RETURN(loaded.tokenizer, LoadTokenizer(*checkpoint), "loading the tokenizer");
  started.wait();
  QD_RETURN_IF_ERROR(Synchronize(loaded.model->decoder().device()));
  loaded.load_seconds = absl::ToDoubleSeconds(Clock::Real().Monotonic() - start);
  loaded.size_bytes = checkpoint->total_bytes();
  loaded.digest = digest.get();
  context.events.Progress({"load", 1, 1, "model"});
  return loaded;
}

nlohmann::json MeasuredOn(const JobContext& context, const LoadedModel& model) {
  const int threads = context.spec.runtime.threads;
  const absl::StatusOr<DeviceMemory> memory = ReadDeviceMemory(model.model->decoder().device());
  nlohmann::json measured = {{"device", model.DeviceName()},
                             {"dtype", model.DtypeName()},
                             {"threads", threads > 0 ? threads : AvailableProcessors()},
                             {"kernels", KernelsName(model.model->decoder().device())},
                             {"packedLinears", model.model->PackedKernels()},
                             {"peakHostBytes", ReadHostMemory().resident_peak_bytes},
                             {"peakDeviceBytes", memory.ok() ? memory->peak_bytes : 0}};
  const Model::DecodePath& decode = model.model->decode_path();
  if (!decode.name.empty()) measured["decode"]["path"] = decode.name;
  if (!decode.why.empty()) measured["decode"]["why"] = decode.why;
  return measured;
}

}  // namespace quantd::engine
