// The quantize job from its plan to its result.
#include "workers/engine/quantize/quantize_job.h"

#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "kernels/parallel.h"
#include "workers/engine/calibration/sequences.h"
#include "workers/engine/quantize/assemble.h"
#include "workers/engine/quantize/block_quantizer.h"
#include "workers/engine/quantize/estimate.h"
#include "workers/engine/quantize/overlay.h"
#include "workers/engine/quantize/plan.h"
#include "workers/engine/quantize/probe.h"
#include "workers/engine/quantize/stream.h"
#include "workers/engine/quantize/work_folder.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tokenizer/tokenizer.h"

namespace quantd::engine {
namespace {

constexpr size_t kModulesInResultMax = 2000;  // The result is kept in the scheduler's database.
constexpr double kMegabyte = 1e6;

// Everything that one run needs, in the order in which it comes to be.
struct Run {
  QuantizePlan plan;
  DocumentSet documents;
  Sequences sequences;
  std::string model_digest;
};

absl::Status LoadCalibration(JobContext& context, const QuantizeSpec& spec, Run& run) {
  if (run.plan.sequences == 0) return absl::OkStatus();
  if (spec.calibration.source.empty()) {
    QD_ASSIGN_OR_RETURN(run.documents, BuiltinDocuments());
  } else {
    QD_ASSIGN_OR_RETURN(const std::string path, context.ResolveData(spec.calibration.source),
                        "calibration.source");
    QD_ASSIGN_OR_RETURN(run.documents, LoadDocuments(path, spec.calibration.text_field));
  }
  std::unique_ptr<Tokenizer> tokenizer;
  const EncodeText encode = [&](absl::string_view text,
                                bool special) -> absl::StatusOr<std::vector<int64_t>> {
    if (tokenizer == nullptr) {
      QD_ASSIGN_OR_RETURN(tokenizer, Tokenizer::Load(run.plan.checkpoint->folder()));
    }
    QD_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                        tokenizer->Encode(text, {.add_special_tokens = special}));
    return std::vector<int64_t>(ids.begin(), ids.end());
  };
  QD_ASSIGN_OR_RETURN(run.sequences, CutSequences(run.documents, encode,
                                                  {.sequences = run.plan.sequences,
                                                   .length = run.plan.sequence_length,
                                                   .vocabulary = run.plan.config.vocab_size}));
  run.plan.sequences = run.sequences.ids.size(0);
  return absl::OkStatus();
}

// With several devices: what they do not share is said, and none is taken that had no sequence.
void LimitDevices(QuantizePlan& plan) {
  const auto devices = static_cast<int64_t>(plan.devices.size());
  if (devices == 1) return;
  if (plan.sequences > 0 && plan.sequences < devices) {
    plan.devices.resize(plan.sequences, plan.device);
    plan.fallbacks.push_back(
        {"devices", "",
         absl::StrCat(devices, " devices for ", plan.sequences,
                      " calibration sequences; the first ", plan.sequences, " are used")});
  }
  if (plan.needs.block_copies > 0) {
    plan.fallbacks.push_back({"devices", "",
                              absl::StrCat("what ", plan.method->Info().name,
                                           " tries out in a block runs on the first device; "
                                           "the devices share the rest")});
  }
}

// Names everything that decides the output's bytes.
std::string Fingerprint(const Run& run) {
  nlohmann::json overridden = nlohmann::json::array();
  for (int64_t unit = 0; unit < run.plan.units(); ++unit) {
    for (const PlannedLinear* linear : run.plan.UnitLinears(unit)) {
      overridden.push_back({linear->name, linear->options});
    }
  }
  const nlohmann::json json = {{"engine", QUANTD_VERSION},
                               {"model", run.model_digest},
                               {"method", run.plan.method->Info().name},
                               {"format", run.plan.format->Info().name},
                               {"modules", overridden},
                               {"calibration", run.documents.digest},
                               {"sequences", run.plan.sequences},
                               {"sequence_length", run.plan.sequence_length},
                               {"seed", run.plan.seed},
                               {"dtype", ComputeDtypeName(run.plan.dtype)},
                               {"device", run.plan.device.is_cuda() ? "cuda" : "cpu"},
                               // Sums over calibration text are made of one part a device.
                               {"parts", run.plan.sequences > 0 ? run.plan.devices.size() : 1}};
  return Sha256Hex(json.dump());
}

absl::StatusOr<at::Tensor> ProbeLogits(const QuantizePlan& plan, const WorkFolder& work,
                                       const BlockStream& stream) {
  if (!plan.head.quantized) return stream.decoder().Logits(stream.probe()[0]);
  QD_ASSIGN_OR_RETURN(const auto file, work.OpenUnit(plan.units() - 1));
  QD_ASSIGN_OR_RETURN(
      const QuantizedWeight head,
      plan.format->Unpack(plan.configuration, plan.head.name,
                          [&](absl::string_view name) -> absl::StatusOr<TensorView> {
                            const TensorView* view = file->Find(name);
                            if (view == nullptr) return absl::NotFoundError(name);
                            return *view;
                          }));
  QD_ASSIGN_OR_RETURN(at::Tensor weight, Dequantize(head, plan.dtype));
  WeightOverlay source(*plan.source);
  source.Set(plan.head.WeightName(), std::move(weight));
  QD_ASSIGN_OR_RETURN(const Decoder decoder,
                      Decoder::Create(plan.config, source,
                                      {.device = stream.decoder().device(), .dtype = plan.dtype}));
  return decoder.Logits(stream.probe()[0]);
}

// Quantizes all units and returns the probe.
absl::StatusOr<nlohmann::json> QuantizeUnits(JobContext& context, const QuantizeSpec& spec,
                                             const Run& run, WorkFolder& work) {
  const QuantizePlan& plan = run.plan;
  const int64_t asked_batch = spec.calibration.batch_size;
  StreamOptions options;
  options.batch_size = work.state().batch_size > 0 ? work.state().batch_size : asked_batch;
  QD_ASSIGN_OR_RETURN(const ActivationBudget budget,
                      BudgetActivations(context.spec.runtime, plan, asked_batch));
  options.activation_bytes_max = budget.host_bytes;
  options.device_activation_bytes_max = budget.device_bytes;
  options.work_dir = context.work_dir;
  options.fallback = [&](absl::string_view kind, absl::string_view module,
                         absl::string_view words) {
    RecordFallback(context, work, kind, module, words);
  };
  options.check = [&] { return context.cancel.Check(); };
  QD_ASSIGN_OR_RETURN(const auto stream, BlockStream::Create(plan, std::move(options)));
  const at::Tensor probe = ProbeTokens(plan.config.vocab_size);
  const bool calibrate = work.state().units_done < plan.units();
  QD_RETURN_IF_ERROR(stream->Start(calibrate ? run.sequences.ids : at::Tensor(), probe));
  BlockQuantizer quantizer(context, plan, work, *stream);
  for (int64_t unit = 0; unit < plan.units(); ++unit) QD_RETURN_IF_ERROR(quantizer.Run(unit));
  QD_ASSIGN_OR_RETURN(const at::Tensor logits, ProbeLogits(plan, work, *stream),
                      "computing the probe's logits");
  return TorchCall("recording the probe", [&] {
    return DescribeProbe(probe, logits, plan.dtype, stream->decoder().device());
  });
}

double Megabytes(int64_t bytes) {
  return std::round(static_cast<double>(bytes) / kMegabyte * 1000) / 1000;
}

// What each device is and what it came to hold.
absl::StatusOr<nlohmann::json> Devices(const QuantizePlan& plan) {
  const std::vector<DeviceInfo> known = ListDevices();  // The CPU, then the GPUs.
  nlohmann::json devices = nlohmann::json::array();
  for (const at::Device device : plan.devices) {
    const size_t place = device.is_cuda() ? static_cast<size_t>(device.index()) + 1 : 0;
    QD_ASSIGN_OR_RETURN(const DeviceMemory memory, ReadDeviceMemory(device));
    devices.push_back({{"device", device.str()},
                       {"name", place < known.size() ? known[place].name : ""},
                       {"peak_bytes", memory.peak_bytes}});
  }
  return devices;
}

nlohmann::json Versions(const QuantizePlan& plan) {
  nlohmann::json versions = {
      {"quantd", QUANTD_VERSION}, {"libtorch", TORCH_VERSION}, {"compiler", __VERSION__}};
  for (const DeviceInfo& device : ListDevices()) {
    if (device.type != (plan.device.is_cuda() ? "cuda" : "cpu")) continue;
    versions["device"] = device.name;
    if (!device.driver_version.empty()) versions["driver"] = device.driver_version;
    break;
  }
  return versions;
}

absl::StatusOr<nlohmann::json> Modules(const QuantizePlan& plan, const WorkFolder& work) {
  nlohmann::json modules = nlohmann::json::array();
  for (int64_t unit = 0; unit < plan.units(); ++unit) {
    QD_ASSIGN_OR_RETURN(const nlohmann::json records, work.Records(unit));
    for (const nlohmann::json& record : records) modules.push_back(record);
  }
  return modules;
}

// Over all quantized linears, with everything that the format stores for them.
absl::StatusOr<double> BitsPerWeight(const QuantizePlan& plan) {
  double bits = 0;
  double weights = 0;
  for (int64_t unit = 0; unit < plan.units(); ++unit) {
    for (const PlannedLinear* linear : plan.UnitLinears(unit)) {
      weights += static_cast<double>(linear->shape.out) * static_cast<double>(linear->shape.in);
      for (const TensorInfo& info : plan.format->Describe(linear->scheme)) {
        QD_ASSIGN_OR_RETURN(const int64_t bytes, DataBytes(info.dtype, info.shape));
        bits += 8.0 * static_cast<double>(bytes);
      }
    }
  }
  return bits / weights;
}

// The record that travels with the files: quantization_metadata.json.
absl::StatusOr<nlohmann::json> Metadata(const JobContext& context, const QuantizeSpec& spec,
                                        const Run& run, WorkFolder& work,
                                        const WrittenModel& written) {
  const QuantizePlan& plan = run.plan;
  QD_ASSIGN_OR_RETURN(nlohmann::json modules, Modules(plan, work));
  QD_ASSIGN_OR_RETURN(const nlohmann::json devices, Devices(plan));
  int64_t device_peak = 0;
  for (const nlohmann::json& device : devices) {
    device_peak = std::max(device_peak, device["peak_bytes"].get<int64_t>());
  }
  const int64_t before = plan.checkpoint->total_bytes();
  const int64_t after = written.tensor_bytes;
  QD_ASSIGN_OR_RETURN(const double bits_per_weight, BitsPerWeight(plan));
  nlohmann::json calibration = nullptr;
  if (plan.sequences > 0) {
    calibration = {{"source", run.documents.source},
                   {"digest", run.documents.digest},
                   {"sequences", plan.sequences},
                   {"sequence_length", plan.sequence_length},
                   {"batch_size", work.state().batch_size}};
  }
  return nlohmann::json{
      {"method", plan.method->Info().name},
      {"format", plan.format->Info().name},
      {"model", spec.model},
      {"model_digest", run.model_digest},
      {"output_digest", written.digest},
      {"bits", plan.scheme.bits},
      {"group_size", plan.scheme.group_size},
      {"options", plan.options},
      {"bits_per_weight", bits_per_weight},
      {"quantization_seconds", work.state().seconds},
      {"phase_seconds", work.state().phase_seconds},
      {"size_before_bytes", before},
      {"size_after_bytes", after},
      {"size_before_mb", Megabytes(before)},
      {"size_after_mb", Megabytes(after)},
      {"compression_ratio", static_cast<double>(before) / static_cast<double>(after)},
      {"peak_host_bytes", ReadHostMemory().resident_peak_bytes},
      {"peak_device_bytes", device_peak},
      {"timestamp", absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone())},
      {"versions", Versions(plan)},
      {"device", plan.device.is_cuda() ? "cuda" : "cpu"},
      {"devices", devices},
      {"kernels", KernelsName(plan.device)},
      {"dtype", ComputeDtypeName(plan.dtype)},
      {"calibration", calibration},
      {"seed", context.spec.runtime.seed},
      {"attempts", work.state().attempts},
      {"fallbacks", work.state().fallbacks},
      {"notes", work.state().notes},
      {"modules", modules}};
}

nlohmann::json ResultOf(const nlohmann::json& metadata) {
  nlohmann::json modules = nlohmann::json::array();
  for (const nlohmann::json& module : metadata["modules"]) {
    if (modules.size() == kModulesInResultMax) break;
    modules.push_back({{"name", module["name"]},
                       {"bits", module["bits"]},
                       {"groupSize", module["groupSize"]},
                       {"loss", module["loss"]},
                       {"damping", module["damping"]}});
  }
  return {{"method", metadata["method"]},
          {"format", metadata["format"]},
          {"bits", metadata["bits"]},
          {"groupSize", metadata["group_size"]},
          {"quantizationSeconds", metadata["quantization_seconds"]},
          {"sizeBeforeBytes", metadata["size_before_bytes"]},
          {"sizeAfterBytes", metadata["size_after_bytes"]},
          {"compressionRatio", metadata["compression_ratio"]},
          {"bitsPerWeight", metadata["bits_per_weight"]},
          {"peakHostBytes", metadata["peak_host_bytes"]},
          {"peakDeviceBytes", metadata["peak_device_bytes"]},
          {"modelDigest", metadata["model_digest"]},
          {"outputDigest", metadata["output_digest"]},
          {"calibration", metadata["calibration"]},
          {"attempts", metadata["attempts"]},
          {"fallbacks", metadata["fallbacks"]},
          {"modules", modules}};
}

absl::StatusOr<nlohmann::json> RunPlanned(JobContext& context, const QuantizeSpec& spec, Run& run) {
  QD_RETURN_IF_ERROR(CheckResources(context, run.plan, spec.calibration.batch_size));
  QD_RETURN_IF_ERROR(LoadCalibration(context, spec, run));
  LimitDevices(run.plan);
  run.model_digest = run.plan.checkpoint->Digest();
  QD_ASSIGN_OR_RETURN(WorkFolder work,
                      WorkFolder::Open(context.work_dir, Fingerprint(run), run.plan.units()));
  if (!run.sequences.warning.empty() && work.state().attempts == 1) {
    RecordFallback(context, work, "calibration_text", "", run.sequences.warning);
  }
  if (work.state().attempts == 1) {
    for (const FallbackRecord& fallback : run.plan.fallbacks) {
      RecordFallback(context, work, fallback.kind, fallback.module, fallback.description);
    }
  }
  QD_ASSIGN_OR_RETURN(const nlohmann::json probe, QuantizeUnits(context, spec, run, work));
  QD_RETURN_IF_ERROR(work.SaveState());
  QD_ASSIGN_OR_RETURN(const WrittenModel written,
                      WriteModel(context, run.plan, work, spec.shard_bytes));
  std::vector<OutputFile> files = written.files;
  QD_RETURN_IF_ERROR(
      WriteFileAtomic(absl::StrCat(context.output_dir, "/", kProbeFile), probe.dump(1) + "\n"));
  files.push_back({kProbeFile, "metadata"});
  QD_ASSIGN_OR_RETURN(const nlohmann::json metadata, Metadata(context, spec, run, work, written));
  QD_ASSIGN_OR_RETURN(const std::vector<OutputFile> records,
                      WriteRecords(context.output_dir, metadata));
  files.insert(files.end(), records.begin(), records.end());
  for (const OutputFile& file : files) context.events.Artifact(file.path, file.role);
  return ResultOf(metadata);
}

void ApplyRuntime(const Runtime& runtime) {
  SetThreads(runtime.threads);
  kernels::SetThreads(runtime.threads > 0 ? runtime.threads : AvailableProcessors());
}

}  // namespace

absl::StatusOr<nlohmann::json> RunQuantize(JobContext& context, const QuantizeSpec& spec) {
  ApplyRuntime(context.spec.runtime);
  Run run;
  QD_ASSIGN_OR_RETURN(run.plan, PlanQuantize(context, spec));
  QD_RETURN_IF_ERROR(SetDeterministic(context.spec.runtime.seed));
  for (const at::Device device : run.plan.devices) ResetPeaks(device);
  return RunPlanned(context, spec, run);
}

absl::StatusOr<QuantizeEstimate> EstimateQuantize(JobContext& context, const QuantizeSpec& spec) {
  ApplyRuntime(context.spec.runtime);
  QD_ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantize(context, spec));
  return EstimatePlan(plan, spec.calibration.batch_size);
}

}  // namespace quantd::engine
