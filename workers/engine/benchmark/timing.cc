// The clock is read on both sides of every step.
#include "workers/engine/benchmark/timing.h"

#include <ATen/ops/argmax.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "base/clock.h"
#include "base/status_macros.h"
#include "workers/engine/job/statistics.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

double SecondsSince(absl::Duration start) {
  return absl::ToDoubleSeconds(Clock::Real().Monotonic() - start);
}

nlohmann::json Spread(const std::vector<double>& values) {
  return {{"min", Quantile(values, 0)},
          {"median", Quantile(values, 0.5)},
          {"max", Quantile(values, 1)}};
}

std::vector<int64_t> RandomIds(const BenchmarkSetting& setting, int64_t vocabulary) {
  std::mt19937_64 random(setting.seed);
  std::vector<int64_t> ids(static_cast<size_t>(setting.batch) *
                           static_cast<size_t>(setting.prompt));
  for (int64_t& id : ids) {
    id = static_cast<int64_t>(random() % static_cast<uint64_t>(vocabulary));
  }
  return ids;
}

}  // namespace

double Timing::DecodeSeconds() const {
  return std::accumulate(step_seconds.begin(), step_seconds.end(), 0.0);
}

absl::StatusOr<Timing> TimeOnce(const JobContext& context, const LoadedModel& model,
                                const BenchmarkSetting& setting) {
  const Decoder& decoder = model.model->decoder();
  std::vector<int64_t> ids = RandomIds(setting, model.model->config().vocab_size);
  KvCache cache(model.model->config().layers);
  cache.Reserve(setting.prompt + setting.decode);
  at::Tensor next = at::from_blob(ids.data(), {setting.batch, setting.prompt}, at::kLong)
                        .to(decoder.device(), at::kLong, false, true);
  Timing timing;
  for (int step = 0; step < setting.decode; ++step) {
    QD_RETURN_IF_ERROR(context.cancel.Check());
    QD_RETURN_IF_ERROR(Synchronize(decoder.device()));
    const absl::Duration start = Clock::Real().Monotonic();
    QD_ASSIGN_OR_RETURN(const at::Tensor logits, model.model->NextLogits(next, &cache));
    QD_ASSIGN_OR_RETURN(
        next, TorchCall("choosing a token", [&] { return logits.argmax(-1, /*keepdim=*/true); }));
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

nlohmann::json SettingRow(const BenchmarkSetting& setting, const std::vector<Timing>& timings) {
  std::vector<double> prefill, decoding, first, steps, whole;
  for (const Timing& timing : timings) {
    whole.push_back(1e3 * timing.TotalSeconds());
    first.push_back(1e3 * timing.prefill_seconds);
    prefill.push_back(static_cast<double>(setting.batch) * setting.prompt / timing.prefill_seconds);
    for (const double seconds : timing.step_seconds) steps.push_back(1e3 * seconds);
    if (timing.DecodeSeconds() > 0) {
      decoding.push_back(setting.batch * static_cast<double>(timing.step_seconds.size()) /
                         timing.DecodeSeconds());
    }
  }
  nlohmann::json row = {
      {"batch", setting.batch},
      {"promptTokens", setting.prompt},
      {"decodeTokens", setting.decode},
      {"prefillTokensPerSecond", Quantile(prefill, 0.5)},
      {"timeToFirstTokenMs", Quantile(first, 0.5)},
      {"sampleLatencyMs", {{"p50", Quantile(whole, 0.5)}, {"p95", Quantile(whole, 0.95)}}},
      {"spread",
       {{"prefillTokensPerSecond", Spread(prefill)},
        {"timeToFirstTokenMs", Spread(first)},
        {"sampleLatencyMs", Spread(whole)}}}};
  // A single new token has no decoding step.
  if (!decoding.empty()) {
    row["decodeTokensPerSecond"] = Quantile(decoding, 0.5);
    row["latencyMs"] = {{"p50", Quantile(steps, 0.5)}, {"p95", Quantile(steps, 0.95)}};
    row["spread"]["decodeTokensPerSecond"] = Spread(decoding);
  }
  return row;
}

nlohmann::json SpeedRatios(const std::vector<Timing>& model, const std::vector<Timing>& baseline) {
  std::vector<double> prefill, decode, sample;
  for (size_t i = 0; i < std::min(model.size(), baseline.size()); ++i) {
    prefill.push_back(baseline[i].prefill_seconds / model[i].prefill_seconds);
    sample.push_back(baseline[i].TotalSeconds() / model[i].TotalSeconds());
    if (model[i].DecodeSeconds() > 0) {
      decode.push_back(baseline[i].DecodeSeconds() / model[i].DecodeSeconds());
    }
  }
  nlohmann::json ratios = {{"prefill", Spread(prefill)}, {"sample", Spread(sample)}};
  if (!decode.empty()) ratios["decode"] = Spread(decode);
  return ratios;
}

}  // namespace quantd::engine
