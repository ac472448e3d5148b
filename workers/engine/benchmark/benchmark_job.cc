// Random prompts from a fixed seed, one prefill and `decodeTokens` greedy steps a repetition; the
// device is waited for before every look at the clock.
#include "workers/engine/benchmark/benchmark_job.h"

#include <ATen/ops/argmax.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <optional>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "workers/engine/benchmark/nvml.h"
#include "workers/engine/evaluation/loaded_model.h"
#include "workers/engine/job/statistics.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// Bounds against a spec that would run for days or never fit.
constexpr int kBatchMax = 4096;
constexpr int kRepetitionsMax = 1000;

struct Plan {
  std::vector<int> batches = {1};
  std::vector<int> prompts = {128};
  int decode = 32;
  int repetitions = 5;
  int warmup = 1;
};

absl::Status CheckRange(absl::string_view field, int value, int maximum) {
  if (value >= 1 && value <= maximum) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("benchmark.", field, " is ", value, "; 1 to ", maximum, " is possible"));
}

absl::StatusOr<Plan> MakePlan(const BenchmarkSpec& spec) {
  Plan plan;
  if (!spec.batch_sizes.empty()) plan.batches = spec.batch_sizes;
  if (!spec.prompt_lengths.empty()) plan.prompts = spec.prompt_lengths;
  if (spec.decode_tokens != 0) plan.decode = spec.decode_tokens;
  if (spec.repetitions != 0) plan.repetitions = spec.repetitions;
  if (spec.warmup != 0) plan.warmup = spec.warmup;
  for (int& batch : plan.batches) {
    if (batch == 0) batch = 1;
    QD_RETURN_IF_ERROR(CheckRange("batchSizes", batch, kBatchMax));
  }
  for (int& prompt : plan.prompts) {
    if (prompt == 0) prompt = 128;
    QD_RETURN_IF_ERROR(CheckRange("promptLengths", prompt, 1 << 24));
  }
  QD_RETURN_IF_ERROR(CheckRange("decodeTokens", plan.decode, 1 << 24));
  QD_RETURN_IF_ERROR(CheckRange("repetitions", plan.repetitions, kRepetitionsMax));
  QD_RETURN_IF_ERROR(CheckRange("warmup", plan.warmup, kRepetitionsMax));
  return plan;
}

absl::Status CheckFits(const Plan& plan, const LoadedModel& model) {
  const int64_t longest = *std::max_element(plan.prompts.begin(), plan.prompts.end());
  if (model.PositionsMax() > 0 && longest + plan.decode > model.PositionsMax()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a prompt of ", longest, " tokens and ", plan.decode, " more do not fit the model's ",
        model.PositionsMax(), " positions; lower benchmark.promptLengths or decodeTokens"));
  }
  return absl::OkStatus();
}

double SecondsSince(absl::Duration start) {
  return absl::ToDoubleSeconds(Clock::Real().Monotonic() - start);
}

struct Timing {
  double prefill_seconds = 0;        // Until the first new token is known.
  std::vector<double> step_seconds;  // Of each further token.
};

absl::StatusOr<Timing> TimeOnce(const JobContext& context, const LoadedModel& model,
                                std::vector<int64_t> ids, int batch, int decode) {
  const Decoder& decoder = model.model->decoder();
  const auto length = static_cast<int64_t>(ids.size()) / batch;
  KvCache cache(model.model->config().layers);
  cache.Reserve(length + decode);
  at::Tensor next = at::from_blob(ids.data(), {batch, length}, at::kLong)
                        .to(decoder.device(), at::kLong, false, true);
  Timing timing;
  for (int step = 0; step < decode; ++step) {
    QD_RETURN_IF_ERROR(context.cancel.Check());
    QD_RETURN_IF_ERROR(Synchronize(decoder.device()));
    const absl::Duration start = Clock::Real().Monotonic();
    QD_ASSIGN_OR_RETURN(const at::Tensor hidden, model.model->Forward(next, &cache));
    QD_ASSIGN_OR_RETURN(next, TorchCall("choosing a token", [&]() -> absl::StatusOr<at::Tensor> {
                          QD_ASSIGN_OR_RETURN(const at::Tensor logits,
                                              decoder.Logits(hidden.select(1, hidden.size(1) - 1)));
                          return logits.argmax(-1, /*keepdim=*/true);
                        }));
    QD_RETURN_IF_ERROR(Synchronize(decoder.device()));
    const double seconds = SecondsSince(start);
    if (step == 0) {
      timing.prefill_seconds = seconds;
    } else {
      timing.step_seconds.push_back(seconds);
    }
  }
  return timing;
}

nlohmann::json Spread(const std::vector<double>& values) {
  return {{"min", Quantile(values, 0)},
          {"median", Quantile(values, 0.5)},
          {"max", Quantile(values, 1)}};
}

double TotalSeconds(const Timing& timing) {
  double total = timing.prefill_seconds;
  for (const double seconds : timing.step_seconds) total += seconds;
  return total;
}

nlohmann::json Row(int batch, int prompt, int decode, const std::vector<Timing>& timings) {
  std::vector<double> prefill, decoding, first, steps, whole;
  for (const Timing& timing : timings) {
    whole.push_back(1e3 * TotalSeconds(timing));
    first.push_back(1e3 * timing.prefill_seconds);
    prefill.push_back(batch * prompt / timing.prefill_seconds);
    double total = 0;
    for (double seconds : timing.step_seconds) {
      total += seconds;
      steps.push_back(1e3 * seconds);
    }
    if (total > 0)
      decoding.push_back(batch * static_cast<double>(timing.step_seconds.size()) / total);
  }
  nlohmann::json row = {
      {"batch", batch},
      {"promptTokens", prompt},
      {"decodeTokens", decode},
      {"prefillTokensPerSecond", Quantile(prefill, 0.5)},
      {"timeToFirstTokenMs", Quantile(first, 0.5)},
      {"sampleLatencyMs", {{"p50", Quantile(whole, 0.5)}, {"p95", Quantile(whole, 0.95)}}},
      {"spread",
       {{"prefillTokensPerSecond", Spread(prefill)}, {"timeToFirstTokenMs", Spread(first)}}}};
  // A single new token has no decoding step.
  if (!decoding.empty()) {
    row["decodeTokensPerSecond"] = Quantile(decoding, 0.5);
    row["latencyMs"] = {{"p50", Quantile(steps, 0.5)}, {"p95", Quantile(steps, 0.95)}};
    row["spread"]["decodeTokensPerSecond"] = Spread(decoding);
  }
  return row;
}

}  // namespace

absl::StatusOr<nlohmann::json> RunBenchmark(JobContext& context, const BenchmarkSpec& spec) {
  QD_ASSIGN_OR_RETURN(const Plan plan, MakePlan(spec));
  QD_ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(context, spec.model));
  QD_RETURN_IF_ERROR(CheckFits(plan, model));
  const at::Device device = model.model->decoder().device();
  std::optional<Nvml> nvml;
  if (device.is_cuda()) nvml.emplace(device.has_index() ? device.index() : 0);
  std::mt19937_64 random(context.spec.runtime.seed);
  nlohmann::json rows = nlohmann::json::array();
  const int64_t runs = static_cast<int64_t>(plan.batches.size() * plan.prompts.size()) *
                       (plan.warmup + plan.repetitions);
  int64_t done = 0;
  for (int batch : plan.batches) {
    for (int prompt : plan.prompts) {
      std::vector<int64_t> ids(static_cast<size_t>(batch) * static_cast<size_t>(prompt));
      for (int64_t& id : ids) {
        id = static_cast<int64_t>(random() %
                                  static_cast<uint64_t>(model.model->config().vocab_size));
      }
      std::vector<Timing> timings;
      std::optional<double> energy;
      for (int i = 0; i < plan.warmup + plan.repetitions; ++i) {
        context.events.Progress({"benchmark", done++, runs, "repetition"});
        if (i == plan.warmup) energy = nvml ? nvml->EnergyJoules() : std::nullopt;
        QD_ASSIGN_OR_RETURN(Timing timing, TimeOnce(context, model, ids, batch, plan.decode),
                            "batch ", batch, ", prompt of ", prompt, " tokens");
        if (i >= plan.warmup) timings.push_back(std::move(timing));
      }
      rows.push_back(Row(batch, prompt, plan.decode, timings));
      if (energy) {
        // Reading the prompts and writing the answers together.
        const double tokens =
            static_cast<double>(batch) * (prompt + plan.decode) * plan.repetitions;
        rows.back()["joulesPerToken"] = (*nvml->EnergyJoules() - *energy) / tokens;
        rows.back()["clocks"] = nvml->Clocks();
      }
      for (const char* name : {"prefillTokensPerSecond", "decodeTokensPerSecond"}) {
        if (!rows.back().contains(name)) continue;
        context.events.Metric(name, rows.back()[name].get<double>(), "tokens/s",
                              {{"batch", absl::StrCat(batch)}, {"prompt", absl::StrCat(prompt)}});
      }
    }
  }
  context.events.Progress({"benchmark", runs, runs, "repetition"});
  nlohmann::json result = MeasuredOn(context, model);
  for (const char* field : {"prefillTokensPerSecond", "decodeTokensPerSecond", "timeToFirstTokenMs",
                            "latencyMs", "sampleLatencyMs", "joulesPerToken", "clocks"}) {
    if (rows[0].contains(field)) result[field] = rows[0][field];
  }
  result["rows"] = std::move(rows);
  result["warmup"] = plan.warmup;
  result["repetitions"] = plan.repetitions;
  result["loadSeconds"] = model.load_seconds;
  result["sizeBytes"] = model.size_bytes;
  result["weightsInMemoryBytes"] = model.model->size_bytes();
  result["modelDigest"] = model.digest;
  return result;
}

}  // namespace quantd::engine
