// How far a model's predictions are from a reference model's, token by token: KL(reference ||
// model) in natural units over the windows of a text, and how often both find the same token most
// probable. More sensitive than perplexity: errors cannot cancel. Loads both models at once.
#include <ATen/ops/argmax.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/parts.h"
#include "workers/engine/evaluation/task.h"
#include "workers/engine/evaluation/windows.h"
#include "workers/engine/job/statistics.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// A record of every module of a large model has some MB.
constexpr int64_t kMetadataBytesMax = int64_t{64} << 20;
// The tail that llama.cpp's tool reports too.
constexpr double kTailFraction = 0.999;

// hidden [T, H] of the tokens before each scored one.
absl::StatusOr<at::Tensor> ScoredHidden(const LoadedModel& model, const Sequence& window) {
  return TorchCall("computing a window", [&]() -> absl::StatusOr<at::Tensor> {
    const auto inputs = static_cast<int64_t>(window.ids.size()) - 1;
    const at::Tensor ids =
        at::from_blob(const_cast<int64_t*>(window.ids.data()), {1, inputs}, at::kLong)
            .to(model.model->decoder().device());
    QD_ASSIGN_OR_RETURN(const at::Tensor hidden, model.model->Forward(ids));
    return hidden[0].slice(0, inputs - window.scored, inputs);
  });
}

// {"kl": [per token], "same": tokens with the same argmax, "squares": sum over tokens of the
// squared change in the probability of the token that the text has}.
absl::StatusOr<nlohmann::json> CompareWindow(const LoadedModel& model, const LoadedModel& reference,
                                             const Sequence& window) {
  QD_ASSIGN_OR_RETURN(const at::Tensor hidden, ScoredHidden(model, window));
  QD_ASSIGN_OR_RETURN(const at::Tensor reference_hidden, ScoredHidden(reference, window));
  // Two distributions and their products are alive at once.
  const int64_t rows = std::max<int64_t>(1, LogitRowsMax(model) / 4);
  nlohmann::json divergences = nlohmann::json::array();
  int64_t same = 0;
  double squares = 0;
  const auto inputs = static_cast<int64_t>(window.ids.size());
  for (int64_t first = 0; first < window.scored; first += rows) {
    const int64_t last = std::min(first + rows, window.scored);
    QD_RETURN_IF_ERROR(TorchCall("comparing logits", [&]() -> absl::Status {
      QD_ASSIGN_OR_RETURN(const at::Tensor logits,
                          model.model->decoder().Logits(hidden.slice(0, first, last)));
      QD_ASSIGN_OR_RETURN(
          const at::Tensor reference_logits,
          reference.model->decoder().Logits(reference_hidden.slice(0, first, last)));
      const at::Tensor p = at::log_softmax(reference_logits, -1);
      const at::Tensor q = at::log_softmax(logits, -1).to(p.device());
      // A token of probability zero in the reference adds nothing, whatever the model says.
      const at::Tensor terms =
          at::where(p.isneginf(), at::zeros({}, p.options()), p.exp() * (p - q));
      const at::Tensor kl = terms.sum(-1, false, at::kDouble).to(at::kCPU).contiguous();
      for (int64_t i = 0; i < kl.numel(); ++i) {
        divergences.push_back(FiniteOrNull(kl.data_ptr<double>()[i]));
      }
      same += (p.argmax(-1) == q.argmax(-1)).sum().item<int64_t>();
      const at::Tensor next =
          at::from_blob(const_cast<int64_t*>(window.ids.data()) + inputs - window.scored + first,
                        {last - first, 1}, at::kLong)
              .to(p.device());
      const at::Tensor change = at::gather(q, 1, next).exp() - at::gather(p, 1, next).exp();
      squares += change.to(at::kDouble).square().sum().item<double>();
      return absl::OkStatus();
    }));
  }
  return nlohmann::json{
      {"kl", std::move(divergences)}, {"same", same}, {"squares", FiniteOrNull(squares)}};
}

TaskResult Summarize(const std::string& key, const TextWindows& text, const std::string& protocol,
                     const std::vector<nlohmann::json>& windows) {
  TaskResult result;
  std::vector<double> all, window_means;
  int64_t same = 0;
  double squares = 0;
  for (size_t i = 0; i < windows.size(); ++i) {
    std::vector<double> divergences;
    for (const nlohmann::json& value : windows[i]["kl"]) divergences.push_back(NumberOrNan(value));
    same += windows[i]["same"].get<int64_t>();
    squares += NumberOrNan(windows[i]["squares"]);
    const double mean = MeanAndError(divergences).mean;
    window_means.push_back(mean);
    all.insert(all.end(), divergences.begin(), divergences.end());
    result.samples.push_back({{"id", i}, {"scores", {{key, FiniteOrNull(mean)}}}});
  }
  const double count = static_cast<double>(all.size());
  const bool finite =
      std::all_of(all.begin(), all.end(), [](double x) { return std::isfinite(x); });
  const nlohmann::json common = {{"samples", windows.size()},
                                 {"tokens", all.size()},
                                 {"protocol", protocol},
                                 {"dataDigest", text.digest}};
  const auto add = [&](const std::string& name, double value, bool lower) -> nlohmann::json& {
    nlohmann::json& metric = result.metrics[name];
    metric = common;
    metric["value"] = FiniteOrNull(value);
    metric["lowerIsBetter"] = lower;
    return metric;
  };
  add(key, MeanAndError(all).mean, true)["stderr"] =
      FiniteOrNull(MeanAndError(window_means).standard_error);
  const double nan = std::nan("");
  add(key + "/median", finite ? Quantile(all, 0.5) : nan, true);
  add(key + "/p99.9", finite ? Quantile(all, kTailFraction) : nan, true);
  // As llama.cpp's tool states it: root mean square of the change in the right token's probability.
  add(key + "/delta_p_rms", std::sqrt(squares / count), true);
  const double share = static_cast<double>(same) / count;
  add(key + "/top1", share, false)["stderr"] = std::sqrt(share * (1 - share) / count);
  return result;
}

// The model that a quantized one was made from, by its own record; "" for one that has none.
absl::StatusOr<std::string> OriginalOf(const LoadedModel& model) {
  const std::string path = model.folder + "/quantization_metadata.json";
  if (!FileExists(path)) return std::string();
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMetadataBytesMax));
  const nlohmann::json metadata = nlohmann::json::parse(text, nullptr, false);
  const nlohmann::json name =
      metadata.is_object() ? metadata.value("model", nlohmann::json()) : nlohmann::json();
  if (!name.is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("option \"reference\" is empty, and ", path,
                                                   " does not name the original model"));
  }
  return name.get<std::string>();
}

absl::StatusOr<TaskResult> Run(TaskContext& context) {
  std::string reference_name = context.options["reference"];
  if (reference_name.empty()) {
    QD_ASSIGN_OR_RETURN(reference_name, OriginalOf(context.model));
  }
  std::optional<LoadedModel> loaded;
  if (!reference_name.empty()) {
    QD_ASSIGN_OR_RETURN(loaded, LoadModel(context.job, reference_name), "loading the reference");
  }
  // An original is compared with itself: the zero that the others are held against.
  const LoadedModel& reference = loaded ? *loaded : context.model;
  if (reference.tokenizer->digest() != context.model.tokenizer->digest() ||
      reference.model->config().vocab_size != context.model.model->config().vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("option \"reference\": ", reference_name,
                     " has another tokenizer or vocabulary; their predictions cannot be compared"));
  }
  nlohmann::json cut = context.options;
  cut.erase("reference");
  QD_ASSIGN_OR_RETURN(const TextWindows text,
                      CutWindows(context.model, context.data_path, cut, context.limit));
  const std::string phase = absl::StrCat("evaluate ", context.key);
  const auto total = static_cast<int64_t>(text.windows.size());
  const auto compute = [&](int64_t first,
                           int64_t last) -> absl::StatusOr<std::vector<nlohmann::json>> {
    std::vector<nlohmann::json> values;
    for (int64_t i = first; i < last; ++i) {
      QD_RETURN_IF_ERROR(context.job.cancel.Check());
      QD_ASSIGN_OR_RETURN(
          values.emplace_back(),
          CompareWindow(context.model, reference, text.windows[static_cast<size_t>(i)]));
      context.job.events.Progress({phase, i + 1, total, "window"});
    }
    return values;
  };
  QD_ASSIGN_OR_RETURN(const std::vector<nlohmann::json> windows,
                      RunParts(context.job,
                               {.name = context.key,
                                .fingerprint = TaskFingerprint(
                                    context, absl::StrCat(text.digest, reference.digest)),
                                .items = total,
                                .items_per_part = WindowsPerPart(context.model)},
                               compute, nullptr));
  return Summarize(context.key, text,
                   absl::StrCat("KL(reference || model) reference=sha256:",
                                reference.digest.substr(0, 12), " ", text.protocol),
                   windows);
}

std::vector<OptionInfo> Options() {
  std::vector<OptionInfo> options = WindowOptions();
  options.push_back(
      {"reference",
       OptionType::kString,
       "",
       {},
       {},
       {},
       "The model to compare with, named as the spec's model is; empty: the one that this one "
       "was quantized from."});
  return options;
}

}  // namespace

const Task& DivergenceTask() {
  static const Task& task =
      *new Task{.name = "kld",
                .aliases = {},
                .summary = "Divergence of the predictions from a reference model's over a text.",
                .options = Options(),
                .metrics = {"kld", "median", "p99.9", "delta_p_rms", "top1"},
                .needs_data = true,
                .run = Run};
  return task;
}

}  // namespace quantd::engine
