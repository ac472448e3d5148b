// Perplexity of a text: exp of the mean negative log-likelihood of its tokens, by windows, with the
// standard error over windows and bits per byte. See windows.h for what is scored.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/parts.h"
#include "workers/engine/evaluation/scorer.h"
#include "workers/engine/evaluation/task.h"
#include "workers/engine/evaluation/windows.h"
#include "workers/engine/job/statistics.h"

namespace quantd::engine {
namespace {

// Sum of negative log-likelihoods over tokens, from the windows' values {"nll", "tokens"}.
double MeanNll(const std::vector<nlohmann::json>& windows) {
  double nll = 0, tokens = 0;
  for (const nlohmann::json& window : windows) {
    nll += NumberOrNan(window["nll"]);
    tokens += NumberOrNan(window["tokens"]);
  }
  return nll / tokens;
}

nlohmann::json PerplexityMetric(const TextWindows& text,
                                const std::vector<nlohmann::json>& windows) {
  const double mean = MeanNll(windows);
  std::vector<double> means;
  for (const nlohmann::json& window : windows) {
    means.push_back(NumberOrNan(window["nll"]) / NumberOrNan(window["tokens"]));
  }
  const double perplexity = std::exp(mean);
  const double tokens = static_cast<double>(text.scored_tokens);
  return {{"value", FiniteOrNull(perplexity)},
          // Of exp(mean), to first order.
          {"stderr", FiniteOrNull(perplexity * MeanAndError(means).standard_error)},
          {"meanNll", FiniteOrNull(mean)},
          {"bitsPerByte",
           FiniteOrNull(mean * tokens / std::log(2.0) / static_cast<double>(text.scored_bytes))},
          {"samples", text.windows.size()},
          {"tokens", text.scored_tokens},
          {"protocol", text.protocol},
          {"dataDigest", text.digest},
          {"lowerIsBetter", true}};
}

absl::StatusOr<TaskResult> Run(TaskContext& context) {
  const std::string phase = absl::StrCat("evaluate ", context.key);
  QD_ASSIGN_OR_RETURN(const TextWindows text,
                      CutWindows(context.model, context.data_path, context.options, context.limit));
  Scorer scorer(context.job, context.model, context.batch_size);
  const auto total = static_cast<int64_t>(text.windows.size());
  const auto compute = [&](int64_t first,
                           int64_t last) -> absl::StatusOr<std::vector<nlohmann::json>> {
    const auto windows =
        absl::MakeConstSpan(text.windows)
            .subspan(static_cast<size_t>(first), static_cast<size_t>(last - first));
    QD_ASSIGN_OR_RETURN(const std::vector<Score> scores, scorer.Run(windows, [&](int64_t done) {
      context.job.events.Progress({phase, first + done, total, "window"});
    }));
    std::vector<nlohmann::json> values;
    for (size_t i = 0; i < scores.size(); ++i) {
      values.push_back({{"nll", FiniteOrNull(-scores[i].log_prob)}, {"tokens", windows[i].scored}});
    }
    return values;
  };
  const auto on_part = [&](int64_t done, const std::vector<nlohmann::json>& values) {
    context.job.events.Progress({phase, done, total, "window"});
    if (done < total) {
      context.job.events.Metric(context.key, std::exp(MeanNll(values)), "", {{"partial", "true"}});
    }
  };
  QD_ASSIGN_OR_RETURN(const std::vector<nlohmann::json> values,
                      RunParts(context.job,
                               {.name = context.key,
                                .fingerprint = TaskFingerprint(context, text.digest),
                                .items = total,
                                .items_per_part = WindowsPerPart(context.model)},
                               compute, on_part));
  TaskResult result;
  result.metrics[context.key] = PerplexityMetric(text, values);
  for (size_t i = 0; i < values.size(); ++i) {
    const double mean = NumberOrNan(values[i]["nll"]) / NumberOrNan(values[i]["tokens"]);
    result.samples.push_back({{"id", i},
                              {"tokens", values[i]["tokens"]},
                              {"nll", values[i]["nll"]},
                              {"scores", {{context.key, FiniteOrNull(mean)}}}});
  }
  return result;
}

}  // namespace

const Task& PerplexityTask() {
  static const Task& task = *new Task{.name = "perplexity",
                                      .aliases = {},
                                      .summary = "Perplexity of a text file, by windows.",
                                      .options = WindowOptions(),
                                      .metrics = {"perplexity"},
                                      .needs_data = true,
                                      .run = Run};
  return task;
}

}  // namespace quantd::engine
