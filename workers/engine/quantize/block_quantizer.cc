// See block_quantizer.h.
#include "workers/engine/quantize/block_quantizer.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/quantize/experts.h"
#include "workers/engine/quantize/linear_parts.h"
#include "workers/engine/quantize/stream_block_job.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

nlohmann::json Record(const PlannedLinear& linear, const LinearResult& result) {
  nlohmann::json record = SchemeToJson(linear.scheme);
  record["loss"] = result.loss;
  record["damping"] = result.damping;
  return record;
}

// Valid as long as `tensors`.
TensorLookup LookupIn(const std::vector<NamedTensor>& tensors) {
  return [&tensors](absl::string_view name) -> absl::StatusOr<TensorView> {
    for (const NamedTensor& tensor : tensors) {
      if (tensor.name != name) continue;
      QD_ASSIGN_OR_RETURN(const DType dtype, ToDType(tensor.tensor.scalar_type()));
      return TensorView{dtype, tensor.tensor.sizes().vec(), TensorBytes(tensor.tensor)};
    }
    return absl::NotFoundError(absl::StrCat(name, " is not among the packed tensors"));
  };
}

// The block computes with what readers of the stored weight will see: formats may round once more
// than the method.
absl::Status SetDecoded(const PlannedLinear& linear, const QuantizedWeight& stored,
                        at::ScalarType dtype, at::Device device, Block& block) {
  QD_ASSIGN_OR_RETURN(const at::Tensor weight, Dequantize(stored, dtype, KernelDevice(device)));
  QD_RETURN_IF_ERROR(block.SetWeight(linear.shape.module, weight), linear.name);
  block.linear(linear.shape.module).input = InputOf(stored);
  return absl::OkStatus();
}

}  // namespace

struct BlockQuantizer::Clock {
  explicit Clock(at::Device device) : device(device) {}
  // Seconds since the last call, once the device has done what it was given.
  double Lap() {
    Synchronize(device).IgnoreError();  // A fault shows where it matters.
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(begin, now)).count();
  }
  const at::Device device;
  std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  double quantize = 0, pack = 0;
};

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
  const std::vector<const PlannedLinear*> linears = plan_.UnitLinears(unit);
  std::set<std::string> quantized;
  for (const PlannedLinear* linear : linears) quantized.insert(linear->WeightName());
  overlay_.Clear();
  for (const std::string& name : file->names()) {
    if (quantized.contains(name) || !plan_.source->Has(name)) continue;
    QD_ASSIGN_OR_RETURN(const at::Tensor edited, ViewTensor(*file->Find(name)));
    overlay_.Set(name, edited);
  }
  QD_RETURN_IF_ERROR(stream_.AdvanceOriginal(unit));
  QD_ASSIGN_OR_RETURN(Replicas block, stream_.LoadReplicas(unit, overlay_));
  for (const PlannedLinear* linear : linears) {
    QD_ASSIGN_OR_RETURN(const QuantizedWeight weight,
                        plan_.format->Unpack(plan_.configuration, linear->name, lookup));
    QD_RETURN_IF_ERROR(SetDecoded(*linear, weight, plan_.dtype, stream_.devices()[0], block[0]));
    QD_RETURN_IF_ERROR(Share(*linear, 0, block));
  }
  const absl::Status status = stream_.Advance(block);
  overlay_.Clear();  // It refers to the file.
  return status;
}

absl::Status BlockQuantizer::Quantize(int64_t unit) {
  const auto start = std::chrono::steady_clock::now();
  phase_begin_ = start;
  UnitOutput output;
  overlay_.Clear();
  const bool head = unit >= static_cast<int64_t>(plan_.blocks.size());
  QD_RETURN_IF_ERROR(head ? QuantizeHead(output) : QuantizeBlock(unit, output));
  WorkState& state = work_.state();
  state.batch_size = stream_.batch_size();
  state.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                      work_.Save(unit, output.tensors, output.records));
  Spent("save");
  for (const nlohmann::json& record : output.records) {
    context_.events.Metric("quantization_loss", record["loss"].get<double>(), "",
                           {{"module", record["name"].get<std::string>()}});
  }
  context_.events.Checkpoint(static_cast<int>(unit + 1), static_cast<int>(plan_.units()), paths);
  return absl::OkStatus();
}

void BlockQuantizer::Add(const char* phase, double more) {
  nlohmann::json& seconds = work_.state().phase_seconds[phase];
  seconds = (seconds.is_number() ? seconds.get<double>() : 0) + more;
}

void BlockQuantizer::Spent(const char* phase) {
  stream_.Synchronize().IgnoreError();  // A fault shows where it matters.
  const auto now = std::chrono::steady_clock::now();
  Add(phase, std::chrono::duration<double>(now - std::exchange(phase_begin_, now)).count());
}

absl::Status BlockQuantizer::QuantizeHead(UnitOutput& output) {
  std::optional<InputStatistics> statistics;
  if (plan_.needs.hessian || plan_.needs.absmax) {
    QD_ASSIGN_OR_RETURN(statistics, stream_.CollectHead());
    Spent("collect");
  }
  const LinearPart whole = {.rows = plan_.head.shape.out};
  QD_ASSIGN_OR_RETURN(LinearResult result, RunMethod(plan_.head, whole, stream_.devices()[0],
                                                     statistics ? &*statistics : nullptr));
  Spent("quantize");
  QD_ASSIGN_OR_RETURN(Done done, Pack(plan_.head, std::move(result), nullptr));
  Take(plan_.head, std::move(done), output);
  Spent("pack");
  return absl::OkStatus();
}

absl::Status BlockQuantizer::QuantizeBlock(int64_t layer, UnitOutput& output) {
  // A method that asks for drift compares inputs within the block; others want the block's output.
  if (!plan_.needs.drift) QD_RETURN_IF_ERROR(stream_.AdvanceOriginal(layer));
  std::vector<LinearResult> results;
  QD_RETURN_IF_ERROR(RunHook(layer, [&](BlockJob& job) -> absl::Status {
    QD_RETURN_IF_ERROR(plan_.method->PrepareBlock(job), "preparing block ", layer);
    QD_ASSIGN_OR_RETURN(results, plan_.method->QuantizeBlock(job));
    return absl::OkStatus();
  }));
  Spent("prepare");
  QD_ASSIGN_OR_RETURN(Replicas block, stream_.LoadReplicas(layer, overlay_));
  Spent("load");
  const std::vector<const PlannedLinear*> linears = plan_.UnitLinears(layer);
  if (results.empty()) {
    QD_RETURN_IF_ERROR(QuantizeLinears(layer, block, output));
  } else if (results.size() != linears.size()) {
    return absl::InternalError(absl::StrCat(plan_.method->Info().name, " quantized ",
                                            results.size(), " of ", linears.size(), " linears"));
  }
  for (size_t i = 0; i < results.size(); ++i) {
    QD_ASSIGN_OR_RETURN(Done done, Pack(*linears[i], std::move(results[i]), &block[0]));
    QD_RETURN_IF_ERROR(Share(*linears[i], 0, block));
    Take(*linears[i], std::move(done), output);
  }
  if (!results.empty()) Spent("pack");
  // What the method changed and what stays in full precision belongs to the unit.
  for (const auto& [name, tensor] : overlay_.edits()) {
    const bool quantized =
        std::any_of(linears.begin(), linears.end(),
                    [&](const PlannedLinear* linear) { return linear->WeightName() == name; });
    if (!quantized) output.tensors.push_back({name, tensor});
  }
  if (plan_.needs.drift) QD_RETURN_IF_ERROR(stream_.AdvanceOriginal(layer));
  QD_RETURN_IF_ERROR(stream_.Advance(block));
  Spent("advance");
  return absl::OkStatus();
}

absl::Status BlockQuantizer::RunHook(int64_t layer,
                                     const std::function<absl::Status(BlockJob&)>& hook) {
  StreamBlockJob job(plan_, layer, stream_, overlay_, [&] { return context_.cancel.Check(); });
  QD_RETURN_IF_ERROR(stream_.WithRelief(nullptr, [&] {
    job.Reset();
    return hook(job);
  }));
  for (const FallbackRecord& fallback : job.fallbacks()) {
    RecordFallback(context_, work_, fallback.kind, fallback.module, fallback.description);
  }
  work_.state().notes.update(job.notes());
  return absl::OkStatus();
}

absl::Status BlockQuantizer::QuantizeLinears(int64_t layer, Replicas& block, UnitOutput& output) {
  const std::vector<const PlannedLinear*> linears = plan_.UnitLinears(layer);
  const bool sequential = plan_.options.value("true_sequential", false);
  for (const std::set<int>& groups : StatisticsBatches(linears, sequential)) {
    QD_RETURN_IF_ERROR(context_.cancel.Check());
    std::vector<std::map<int, InputStatistics>> statistics;
    if (plan_.needs.hessian || plan_.needs.absmax) {
      QD_ASSIGN_OR_RETURN(statistics, stream_.Collect(block, groups, sequential));
      Spent("collect");
    }
    std::vector<const PlannedLinear*> some;
    for (const PlannedLinear* linear : linears) {
      if (groups.contains(linear->shape.group)) some.push_back(linear);
    }
    QD_RETURN_IF_ERROR(QuantizeSome(some, statistics, block, output));
  }
  return absl::OkStatus();
}

absl::Status BlockQuantizer::QuantizeSome(const std::vector<const PlannedLinear*>& linears,
                                          std::vector<std::map<int, InputStatistics>>& statistics,
                                          Replicas& block, UnitOutput& output) {
  const size_t devices = block.size();
  const std::vector<LinearPart> parts =
      CutLinears(linears, devices, plan_.method->Info().rows_apart);
  const std::vector<std::vector<size_t>> shares = ShareOut(parts, devices);
  std::vector<std::vector<LinearResult>> cut(linears.size());
  for (const LinearPart& part : parts) cut[part.linear].emplace_back();
  std::vector<Done> done(linears.size());
  std::vector<Clock> clocks(stream_.devices().begin(), stream_.devices().end());
  const auto work = [&](size_t device) -> absl::Status {
    Clock& clock = clocks[device];
    for (const size_t i : shares[device]) {
      QD_RETURN_IF_ERROR(context_.cancel.Check());
      const LinearPart& part = parts[i];
      const PlannedLinear& linear = *linears[part.linear];
      InputStatistics* seen =
          statistics.empty() ? nullptr : &statistics[device].at(linear.shape.group);
      QD_ASSIGN_OR_RETURN(LinearResult result, RunMethod(linear, part, clock.device, seen));
      clock.quantize += clock.Lap();
      if (!part.whole) {
        cut[part.linear][part.place] = std::move(result);
        continue;
      }
      QD_ASSIGN_OR_RETURN(done[part.linear], Pack(linear, std::move(result), &block[device]));
      done[part.linear].device = device;
      clock.pack += clock.Lap();
    }
    return absl::OkStatus();
  };
  QD_RETURN_IF_ERROR(stream_.OnEveryDevice(work));
  // The others have waited for the slowest.
  const auto slowest = std::max_element(
      clocks.begin(), clocks.end(),
      [](const Clock& a, const Clock& b) { return a.quantize + a.pack < b.quantize + b.pack; });
  Add("quantize", slowest->quantize);
  Add("pack", slowest->pack);
  phase_begin_ = std::chrono::steady_clock::now();
  const auto join = [&](size_t device) -> absl::Status {
    for (size_t i = device; i < linears.size(); i += devices) {
      if (cut[i].size() == 1) continue;
      QD_ASSIGN_OR_RETURN(LinearResult result, JoinParts(std::move(cut[i])));
      QD_ASSIGN_OR_RETURN(done[i], Pack(*linears[i], std::move(result), &block[device]));
      done[i].device = device;
    }
    return absl::OkStatus();
  };
  if (parts.size() > linears.size()) {
    QD_RETURN_IF_ERROR(stream_.OnEveryDevice(join));
    Spent("pack");
  }
  for (size_t i = 0; i < linears.size(); ++i) {
    QD_RETURN_IF_ERROR(Share(*linears[i], done[i].device, block));
    Take(*linears[i], std::move(done[i]), output);
  }
  if (devices > 1) Spent("share");
  return absl::OkStatus();
}

absl::StatusOr<BlockQuantizer::Done> BlockQuantizer::Pack(const PlannedLinear& linear,
                                                          LinearResult result, Block* block) {
  Done done = {.result = std::move(result)};
  QD_ASSIGN_OR_RETURN(done.packed, plan_.format->Pack(linear.name, done.result.linear));
  done.result.linear = {};
  if (block == nullptr) return done;
  QD_ASSIGN_OR_RETURN(
      const QuantizedWeight stored,
      plan_.format->Unpack(plan_.configuration, linear.name, LookupIn(done.packed)));
  const at::Device device = block->linear(linear.shape.module).weight.device();
  QD_RETURN_IF_ERROR(SetDecoded(linear, stored, plan_.dtype, device, *block));
  return done;
}

void BlockQuantizer::Take(const PlannedLinear& linear, Done done, UnitOutput& output) {
  for (const FallbackRecord& fallback : done.result.fallbacks) {
    RecordFallback(context_, work_, fallback.kind, fallback.module, fallback.description);
  }
  output.records.push_back(Record(linear, done.result));
  for (NamedTensor& tensor : done.packed) output.tensors.push_back(std::move(tensor));
}

absl::Status BlockQuantizer::Share(const PlannedLinear& linear, size_t from, Replicas& block) {
  const std::string& module = linear.shape.module;
  const Linear& held = block[from].linear(module);
  for (size_t i = 0; i < block.size(); ++i) {
    if (i == from) continue;
    QD_RETURN_IF_ERROR(block[i].SetWeight(module, held.weight), linear.name);
    block[i].linear(module).input = held.input;
  }
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> BlockQuantizer::ReadWeight(const PlannedLinear& linear,
                                                      const LinearPart& part, at::Device device) {
  QD_ASSIGN_OR_RETURN(const at::Tensor stored, overlay_.Read(linear.WeightName()));
  // A copy: methods overwrite their weight, and what is read may be the file itself. It is widened
  // where it goes, which moves half the bytes.
  absl::StatusOr<at::Tensor> weight = TorchCall(absl::StrCat("reading ", linear.name), [&] {
    const at::Tensor rows = stored.narrow(0, part.begin, part.rows);
    const at::Tensor moved = rows.to(device);
    return moved.to(at::kFloat, /*non_blocking=*/false, /*copy=*/moved.is_same(rows));
  });
  overlay_.Release(linear.WeightName());
  return weight;
}

absl::StatusOr<LinearResult> BlockQuantizer::RunMethod(const PlannedLinear& linear,
                                                       const LinearPart& part, at::Device device,
                                                       InputStatistics* statistics) {
  const bool has_hessian = statistics != nullptr && statistics->hessian.defined();
  at::Device where = plan_.method->Info().on_device ? KernelDevice(device) : at::Device(at::kCPU);
  std::vector<FallbackRecord> fallbacks;
  for (;;) {
    const bool on_gpu = where.is_cuda() || (has_hessian && statistics->hessian.is_cuda());
    absl::StatusOr<LinearResult> result = RunMethodOn(where, linear, part, statistics);
    if (result.ok()) {
      result->fallbacks.insert(result->fallbacks.begin(), fallbacks.begin(), fallbacks.end());
    }
    if (result.ok() || !IsOutOfMemory(result.status()) || !on_gpu) return result;
    fallbacks.push_back(
        {"cpu", linear.name, "out of device memory; the module was quantized on the CPU"});
    where = at::kCPU;
    EmptyDeviceCache(device);
    if (statistics == nullptr) continue;
    QD_RETURN_IF_ERROR(TorchCall("moving a Hessian to the CPU", [&] {
      for (at::Tensor* matrix : {&statistics->hessian, &statistics->drift}) {
        if (matrix->defined()) *matrix = matrix->to(at::kCPU);
      }
    }));
  }
}

absl::StatusOr<LinearResult> BlockQuantizer::RunMethodOn(at::Device device,
                                                         const PlannedLinear& linear,
                                                         const LinearPart& part,
                                                         const InputStatistics* statistics) {
  QD_ASSIGN_OR_RETURN(at::Tensor weight, ReadWeight(linear, part, device));
  LinearJob job = {.name = linear.name,
                   .weight = std::move(weight),
                   .statistics = statistics,
                   .options = &linear.options};
  const int64_t tokens = plan_.sequences * plan_.sequence_length;
  if (plan_.needs.hessian && statistics != nullptr &&
      SawTooFewTokens(linear.shape, *statistics, tokens)) {
    return RoundInstead(std::move(job), tokens);
  }
  return plan_.method->Quantize(std::move(job));
}

}  // namespace quantd::engine
