// Warm-up of everything first, with the peaks read before the baseline comes in; then all measured
// repetitions, in turns.
#include "workers/engine/benchmark/benchmark_job.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/benchmark/clocks.h"
#include "workers/engine/benchmark/timing.h"
#include "workers/engine/evaluation/loaded_model.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/device.h"

namespace quantd::engine {
namespace {

// Bounds against a spec that would run for days or never fit.
constexpr int kBatchMax = 4096;
constexpr int kTokensMax = 1 << 24;
constexpr int kRepetitionsMax = 1000;

struct Plan {
  std::vector<BenchmarkSetting> settings;
  int repetitions = 5;
  int warmup = 1;
};

absl::Status CheckRange(absl::string_view field, int value, int maximum) {
  if (value >= 1 && value <= maximum) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("benchmark.", field, " is ", value, "; 1 to ", maximum, " is possible"));
}

absl::StatusOr<Plan> MakePlan(const BenchmarkSpec& spec, uint64_t seed) {
  Plan plan;
  if (spec.repetitions != 0) plan.repetitions = spec.repetitions;
  if (spec.warmup != 0) plan.warmup = spec.warmup;
  BenchmarkSetting setting;
  if (spec.decode_tokens != 0) setting.decode = spec.decode_tokens;
  QD_RETURN_IF_ERROR(CheckRange("decodeTokens", setting.decode, kTokensMax));
  QD_RETURN_IF_ERROR(CheckRange("repetitions", plan.repetitions, kRepetitionsMax));
  QD_RETURN_IF_ERROR(CheckRange("warmup", plan.warmup, kRepetitionsMax));
  const std::vector<int> defaults = {0};
  for (const int batch : spec.batch_sizes.empty() ? defaults : spec.batch_sizes) {
    for (const int prompt : spec.prompt_lengths.empty() ? defaults : spec.prompt_lengths) {
      setting.batch = batch == 0 ? 1 : batch;
      setting.prompt = prompt == 0 ? 128 : prompt;
      setting.seed = seed + plan.settings.size();
      QD_RETURN_IF_ERROR(CheckRange("batchSizes", setting.batch, kBatchMax));
      QD_RETURN_IF_ERROR(CheckRange("promptLengths", setting.prompt, kTokensMax));
      plan.settings.push_back(setting);
    }
  }
  return plan;
}

// One row in the making.
struct Measured {
  BenchmarkSetting setting;
  std::string skipped;  // Why; empty: it is measured.
  std::vector<Timing> model, baseline;
  std::optional<double> joules;
  ClockRange clocks;
};

std::string Words(const BenchmarkSetting& setting) {
  return absl::StrCat("batch ", setting.batch, ", prompt of ", setting.prompt, " tokens");
}

class Benchmark {
 public:
  Benchmark(JobContext& context, const Plan& plan) : context_(context), plan_(plan) {
    for (const BenchmarkSetting& setting : plan.settings) {
      rows_.emplace_back().setting = setting;
    }
    total_ = static_cast<int64_t>(rows_.size()) * (plan.warmup + plan.repetitions);
  }

  absl::StatusOr<nlohmann::json> Run(const BenchmarkSpec& spec);

 private:
  absl::Status Warm(const LoadedModel& model, bool counts);
  absl::StatusOr<std::optional<LoadedModel>> LoadBaseline(const std::string& reference,
                                                          const LoadedModel& model);
  absl::Status Measure(const LoadedModel& model, const LoadedModel* baseline);
  absl::Status MeasureRow(const LoadedModel& model, const LoadedModel* baseline, Measured* row);
  nlohmann::json RowJson(const Measured& row) const;
  void Announce(const nlohmann::json& row);
  void Step() { context_.events.Progress({"benchmark", done_++, total_, "repetition"}); }

  JobContext& context_;
  const Plan& plan_;
  std::vector<Measured> rows_;
  int64_t done_ = 0, total_ = 0;
};

// Runs every setting as it will be measured. What the model's positions or the memory do not hold
// is marked; `counts`: as progress.
absl::Status Benchmark::Warm(const LoadedModel& model, bool counts) {
  absl::Status last;
  bool any = false;
  for (Measured& row : rows_) {
    const int64_t tokens = int64_t{row.setting.prompt} + row.setting.decode;
    if (row.skipped.empty() && model.PositionsMax() > 0 && tokens > model.PositionsMax()) {
      row.skipped =
          absl::StrCat("a prompt of ", row.setting.prompt, " tokens and ", row.setting.decode,
                       " more do not fit the model's ", model.PositionsMax(), " positions");
      last = absl::InvalidArgumentError(
          absl::StrCat(row.skipped, "; lower benchmark.promptLengths or decodeTokens"));
    }
    for (int i = 0; i < plan_.warmup; ++i) {
      if (counts) Step();
      if (!row.skipped.empty()) continue;
      const absl::Status status = TimeOnce(context_, model, row.setting).status();
      if (!status.ok() && !IsOutOfMemory(status)) return status;
      if (status.ok()) continue;
      row.skipped = absl::StrCat("out of memory: ", status.message());
      last = status;
      EmptyDeviceCache(model.model->decoder().device());
    }
    any = any || row.skipped.empty();
  }
  return any ? absl::OkStatus() : last;
}

// None where it cannot be measured beside the model on the same device.
absl::StatusOr<std::optional<LoadedModel>> Benchmark::LoadBaseline(const std::string& reference,
                                                                   const LoadedModel& model) {
  const at::Device device = model.model->decoder().device();
  // What the runtime promises holds for both together.
  Runtime& runtime = context_.spec.runtime;
  const Runtime whole = runtime;
  int64_t& limit = device.is_cpu() ? runtime.host_memory_bytes : runtime.device_memory_bytes;
  if (limit > 0) limit = std::max<int64_t>(1, limit - model.model->size_bytes());
  absl::StatusOr<LoadedModel> baseline = LoadModel(context_, reference);
  runtime = whole;
  std::string why;
  if (!baseline.ok()) {
    if (!IsOutOfMemory(baseline.status())) return baseline.status();
    why = std::string(baseline.status().message());
  } else if (baseline->model->decoder().device() != device) {
    why = "it does not fit the GPU beside the model";
  }
  if (why.empty()) return *std::move(baseline);
  context_.events.Fallback("no_baseline", "",
                           absl::StrCat("the baseline is not measured in turns: ", why));
  EmptyDeviceCache(device);
  return std::nullopt;
}

absl::Status Benchmark::MeasureRow(const LoadedModel& model, const LoadedModel* baseline,
                                   Measured* row) {
  const DeviceMeter meter(model.model->decoder().device());
  for (int i = 0; i < plan_.repetitions; ++i) {
    Step();
    // Whoever runs second finds warmer caches and a hotter chip: they take turns.
    const bool baseline_first = i % 2 == 1;
    for (const bool is_baseline : {baseline_first, !baseline_first}) {
      if (is_baseline && baseline == nullptr) continue;
      const std::optional<double> before = meter.EnergyJoules();
      QD_ASSIGN_OR_RETURN(Timing timing,
                          TimeOnce(context_, is_baseline ? *baseline : model, row->setting),
                          Words(row->setting), is_baseline ? " of the baseline" : "");
      const std::optional<double> after = meter.EnergyJoules();
      if (!is_baseline && before && after) row->joules = row->joules.value_or(0) + *after - *before;
      meter.ReadClocks(&row->clocks);
      (is_baseline ? row->baseline : row->model).push_back(std::move(timing));
    }
  }
  return absl::OkStatus();
}

absl::Status Benchmark::Measure(const LoadedModel& model, const LoadedModel* baseline) {
  for (Measured& row : rows_) {
    if (!row.skipped.empty()) {
      done_ += plan_.repetitions;
      continue;
    }
    const absl::Status status = MeasureRow(model, baseline, &row);
    if (!status.ok() && (baseline == nullptr || !IsOutOfMemory(status))) return status;
    if (!status.ok()) row.skipped = absl::StrCat("out of memory: ", status.message());
    Announce(RowJson(row));
  }
  return absl::OkStatus();
}

nlohmann::json Benchmark::RowJson(const Measured& row) const {
  if (!row.skipped.empty()) {
    return {{"batch", row.setting.batch},
            {"promptTokens", row.setting.prompt},
            {"skipped", row.skipped}};
  }
  nlohmann::json json = SettingRow(row.setting, row.model);
  if (!row.baseline.empty()) json["ratio"] = SpeedRatios(row.model, row.baseline);
  if (!row.clocks.empty()) json["clocks"] = row.clocks.Json();
  if (row.joules) {
    // Reading the prompts and writing the answers together.
    json["joulesPerToken"] = *row.joules / (static_cast<double>(row.setting.batch) *
                                            (row.setting.prompt + row.setting.decode) *
                                            static_cast<double>(row.model.size()));
  }
  return json;
}

void Benchmark::Announce(const nlohmann::json& row) {
  for (const char* name : {"prefillTokensPerSecond", "decodeTokensPerSecond"}) {
    if (!row.contains(name)) continue;
    context_.events.Metric(name, row[name].get<double>(), "tokens/s",
                           {{"batch", absl::StrCat(row["batch"].get<int>())},
                            {"prompt", absl::StrCat(row["promptTokens"].get<int>())}});
  }
}

absl::StatusOr<nlohmann::json> Benchmark::Run(const BenchmarkSpec& spec) {
  QD_ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(context_, spec.model));
  QD_RETURN_IF_ERROR(Warm(model, /*counts=*/true));
  nlohmann::json result = MeasuredOn(context_, model);
  std::optional<LoadedModel> baseline;
  if (!spec.baseline.empty()) {
    QD_ASSIGN_OR_RETURN(baseline, LoadBaseline(spec.baseline, model), "the baseline");
  }
  if (baseline) QD_RETURN_IF_ERROR(Warm(*baseline, /*counts=*/false), "the baseline");
  QD_RETURN_IF_ERROR(Measure(model, baseline ? &*baseline : nullptr));
  context_.events.Progress({"benchmark", total_, total_, "repetition"});
  nlohmann::json rows = nlohmann::json::array(), baseline_rows = rows;
  for (const Measured& row : rows_) {
    rows.push_back(RowJson(row));
    if (row.skipped.empty() && baseline) {
      baseline_rows.push_back(SettingRow(row.setting, row.baseline));
    }
  }
  const auto measured = std::find_if(rows.begin(), rows.end(),
                                     [](const auto& row) { return !row.contains("skipped"); });
  if (measured == rows.end()) {
    return absl::ResourceExhaustedError(rows.front()["skipped"].get<std::string>());
  }
  for (const char* field : {"prefillTokensPerSecond", "decodeTokensPerSecond", "timeToFirstTokenMs",
                            "latencyMs", "sampleLatencyMs", "joulesPerToken", "clocks", "ratio"}) {
    if (measured->contains(field)) result[field] = (*measured)[field];
  }
  result["rows"] = std::move(rows);
  result["warmup"] = plan_.warmup;
  result["repetitions"] = plan_.repetitions;
  result["loadSeconds"] = model.load_seconds;
  result["sizeBytes"] = model.size_bytes;
  result["weightsInMemoryBytes"] = model.model->size_bytes();
  result["modelDigest"] = model.digest;
  if (baseline) {
    result["baseline"] = {{"model", spec.baseline},
                          {"modelDigest", baseline->digest},
                          {"weightsInMemoryBytes", baseline->model->size_bytes()},
                          {"rows", std::move(baseline_rows)}};
  }
  return result;
}

}  // namespace

absl::StatusOr<nlohmann::json> RunBenchmark(JobContext& context, const BenchmarkSpec& spec) {
  QD_ASSIGN_OR_RETURN(const Plan plan, MakePlan(spec, context.spec.runtime.seed));
  return Benchmark(context, plan).Run(spec);
}

}  // namespace quantd::engine
