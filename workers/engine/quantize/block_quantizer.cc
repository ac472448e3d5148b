// See block_quantizer.h.
#include "workers/engine/quantize/block_quantizer.h"

#include <chrono>
#include <map>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

nlohmann::json Record(const PlannedLinear& linear, const LinearResult& result) {
  return {{"name", linear.name},
          {"bits", result.linear.bits},
          {"groupSize", result.linear.group_size},
          {"outputs", linear.shape.out},
          {"inputs", linear.shape.in},
          {"loss", result.loss},
          {"damping", result.damping}};
}

}  // namespace

void RecordFallback(JobContext& context, WorkFolder& work, absl::string_view kind,
                    absl::string_view module, absl::string_view description) {
  context.events.Fallback(kind, module, description);
  work.state().fallbacks.push_back({{"kind", std::string(kind)},
                                    {"module", std::string(module)},
                                    {"description", std::string(description)}});
}

absl::Status BlockQuantizer::Run(int64_t unit) {
  QD_RETURN_IF_ERROR(context_.cancel.Check());
  const bool done = unit < work_.state().units_done;
  QD_RETURN_IF_ERROR(done ? Replay(unit) : Quantize(unit), done ? "replaying" : "quantizing",
                     " block ", unit);
  context_.events.Progress(
      {.phase = "quantize", .done = unit + 1, .total = plan_.units(), .unit = "block"});
  return absl::OkStatus();
}

absl::Status BlockQuantizer::Replay(int64_t unit) {
  if (unit >= static_cast<int64_t>(plan_.blocks.size()))
    return absl::OkStatus();  // Nothing follows the head.
  QD_ASSIGN_OR_RETURN(const auto file, work_.OpenUnit(unit));
  const TensorLookup lookup = [&](absl::string_view name) -> absl::StatusOr<TensorView> {
    const TensorView* view = file->Find(name);
    if (view == nullptr)
      return absl::NotFoundError(absl::StrCat(name, " is not in ", file->path()));
    return *view;
  };
  QD_ASSIGN_OR_RETURN(Block block, stream_.LoadBlock(unit));
  for (const PlannedLinear* linear : plan_.UnitLinears(unit)) {
    QD_ASSIGN_OR_RETURN(const QuantizedLinear quantized,
                        plan_.format->Unpack(plan_.configuration, linear->name, lookup));
    QD_ASSIGN_OR_RETURN(const at::Tensor weight, quantized.Dequantize(plan_.dtype));
    QD_RETURN_IF_ERROR(block.SetWeight(linear->shape.module, weight));
  }
  return stream_.Advance(block);
}

absl::Status BlockQuantizer::Quantize(int64_t unit) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<NamedTensor> tensors;
  nlohmann::json records = nlohmann::json::array();
  if (unit < static_cast<int64_t>(plan_.blocks.size())) {
    QD_ASSIGN_OR_RETURN(Block block, stream_.LoadBlock(unit));
    QD_ASSIGN_OR_RETURN(tensors, QuantizeBlock(unit, block, records));
    QD_RETURN_IF_ERROR(stream_.Advance(block));
  } else {
    std::optional<InputStatistics> statistics;
    if (plan_.method->Info().needs_calibration) {
      QD_ASSIGN_OR_RETURN(statistics, stream_.CollectHead());
    }
    QD_RETURN_IF_ERROR(
        QuantizeLinear(plan_.head, statistics ? &*statistics : nullptr, tensors, records).status());
  }
  WorkState& state = work_.state();
  state.batch_size = stream_.batch_size();
  state.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> paths, work_.Save(unit, tensors, records));
  for (const nlohmann::json& record : records) {
    context_.events.Metric("quantization_loss", record["loss"].get<double>(), "",
                           {{"module", record["name"].get<std::string>()}});
  }
  context_.events.Checkpoint(static_cast<int>(unit + 1), static_cast<int>(plan_.units()), paths);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<NamedTensor>> BlockQuantizer::QuantizeBlock(int64_t layer, Block& block,
                                                                       nlohmann::json& records) {
  const std::vector<const PlannedLinear*> linears = plan_.UnitLinears(layer);
  std::set<int> groups;
  for (const PlannedLinear* linear : linears) groups.insert(linear->shape.group);
  const bool calibrated = plan_.method->Info().needs_calibration;
  const bool sequential = plan_.options.value("true_sequential", false);
  std::map<int, InputStatistics> statistics;
  if (calibrated && !sequential && !groups.empty()) {
    QD_ASSIGN_OR_RETURN(statistics, stream_.Collect(block, groups));
  }
  std::vector<NamedTensor> tensors;
  for (const int group : groups) {
    QD_RETURN_IF_ERROR(context_.cancel.Check());
    if (calibrated && sequential) {
      QD_ASSIGN_OR_RETURN(statistics, stream_.Collect(block, {group}));
    }
    for (const PlannedLinear* linear : linears) {
      if (linear->shape.group != group) continue;
      QD_ASSIGN_OR_RETURN(
          const at::Tensor weight,
          QuantizeLinear(*linear, calibrated ? &statistics.at(group) : nullptr, tensors, records));
      QD_RETURN_IF_ERROR(block.SetWeight(linear->shape.module, weight), linear->name);
    }
    statistics.erase(group);
  }
  return tensors;
}

absl::StatusOr<at::Tensor> BlockQuantizer::QuantizeLinear(const PlannedLinear& linear,
                                                          InputStatistics* statistics,
                                                          std::vector<NamedTensor>& tensors,
                                                          nlohmann::json& records) {
  QD_ASSIGN_OR_RETURN(const LinearResult result, RunMethod(linear, statistics));
  for (const FallbackRecord& fallback : result.fallbacks) {
    RecordFallback(context_, work_, fallback.kind, fallback.module, fallback.description);
  }
  records.push_back(Record(linear, result));
  QD_ASSIGN_OR_RETURN(std::vector<NamedTensor> packed,
                      plan_.format->Pack(linear.name, result.linear));
  for (NamedTensor& tensor : packed) tensors.push_back(std::move(tensor));
  return result.linear.Dequantize(plan_.dtype);
}

absl::StatusOr<LinearResult> BlockQuantizer::RunMethod(const PlannedLinear& linear,
                                                       InputStatistics* statistics) {
  for (;;) {
    QD_ASSIGN_OR_RETURN(const at::Tensor stored, plan_.source->Read(linear.WeightName()));
    // A copy: methods overwrite their weight, and what is read may be the file itself.
    QD_ASSIGN_OR_RETURN(at::Tensor weight, TorchCall(absl::StrCat("reading ", linear.name), [&] {
                          // Beside the Hessian, which leaves the device when it does not fit.
                          const at::Device device =
                              statistics == nullptr ? plan_.device : statistics->hessian.device();
                          return stored.to(device, at::kFloat, /*non_blocking=*/false,
                                           /*copy=*/true);
                        }));
    plan_.source->Release(linear.WeightName());
    absl::StatusOr<LinearResult> result = plan_.method->Quantize({.name = linear.name,
                                                                  .weight = std::move(weight),
                                                                  .statistics = statistics,
                                                                  .options = &linear.options});
    const bool on_gpu = statistics != nullptr && statistics->hessian.is_cuda();
    if (result.ok() || !IsOutOfMemory(result.status()) || !on_gpu) return result;
    RecordFallback(context_, work_, "cpu", linear.name,
                   "out of device memory; the Hessian was factored on the CPU");
    EmptyDeviceCache(statistics->hessian.device());
    QD_RETURN_IF_ERROR(TorchCall("moving a Hessian to the CPU",
                                 [&] { statistics->hessian = statistics->hessian.to(at::kCPU); }));
  }
}

}  // namespace quantd::engine
