// WikiText by documents, with lm-evaluation-harness's rules (wikitext 2.0): a page is detokenized,
// its log-likelihood taken in windows of the model's maximum, and the sum over all pages is divided
// by the words and bytes of the pages as they were before. Token perplexity divides by the tokens
// that were scored. The papers' number is another one: perplexity with protocol=papers.
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/evaluation/parts.h"
#include "workers/engine/evaluation/python_text.h"
#include "workers/engine/evaluation/scorer.h"
#include "workers/engine/evaluation/task.h"
#include "workers/engine/evaluation/wikitext_pages.h"
#include "workers/engine/job/statistics.h"
#include "workers/engine/parquet/parquet.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

// A page has some thousand tokens.
constexpr int64_t kPagesPerPart = 4;
constexpr int64_t kTextBytesMax = int64_t{1} << 30;

std::optional<int64_t> PrefixToken(const LoadedModel& model) {
  if (model.BosId()) return model.BosId();
  const std::vector<int32_t>& ends = model.tokenizer->eos_ids();
  return ends.empty() ? std::nullopt : std::optional<int64_t>(ends[0]);
}

struct Rules {
  std::string bos;
  int64_t window = 0;
};

absl::StatusOr<std::vector<Sequence>> PageSequences(const LoadedModel& model, const Rules& rules,
                                                    const std::string& page) {
  const std::optional<int64_t> prefix = PrefixToken(model);
  if (!prefix) {
    return absl::InvalidArgumentError(
        "the first window needs a begin-of-text or end-of-text token; the model names none");
  }
  QD_ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                      model.Encode(DetokenizeWikitext(page), rules.bos == "tokenizer"));
  return RollingWindows(ids, *prefix, rules.window);
}

// Sums over pages: {"logProb", "words", "bytes", "tokens"}.
json Sums(const std::vector<json>& pages) {
  double log_prob = 0, words = 0, bytes = 0, tokens = 0;
  for (const json& page : pages) {
    log_prob += NumberOrNan(page["logProb"]);
    words += NumberOrNan(page["words"]);
    bytes += NumberOrNan(page["bytes"]);
    tokens += NumberOrNan(page["tokens"]);
  }
  return {{"logProb", log_prob}, {"words", words}, {"bytes", bytes}, {"tokens", tokens}};
}

// Of a ratio of sums, by the pages' residuals (the delta method).
double RatioError(const std::vector<json>& pages, const char* unit, double ratio, double total) {
  if (pages.size() < 2) return std::nan("");
  double squares = 0;
  for (const json& page : pages) {
    const double residual = -NumberOrNan(page["logProb"]) - ratio * NumberOrNan(page[unit]);
    squares += residual * residual;
  }
  const double n = static_cast<double>(pages.size());
  return std::sqrt(squares * n / (n - 1)) / total;
}

void AddMetric(const TaskContext& context, const std::vector<json>& pages, const char* name,
               const char* unit, const json& common, TaskResult* result) {
  const json sums = Sums(pages);
  const double total = sums[unit];
  const double mean = -sums["logProb"].get<double>() / total;
  const bool bits = std::string(name) == "bits_per_byte";
  const double value = bits ? mean / std::log(2.0) : std::exp(mean);
  const double error = RatioError(pages, unit, mean, total);
  json& metric = result->metrics[absl::StrCat(context.key, "/", name)];
  metric = common;
  metric["value"] = FiniteOrNull(value);
  if (std::isfinite(error)) {
    metric["stderr"] = FiniteOrNull(bits ? error / std::log(2.0) : value * error);
  }
  if (!bits) metric["meanNll"] = FiniteOrNull(mean);
  metric["total"] = {{"logProb", FiniteOrNull(sums["logProb"].get<double>())}, {unit, total}};
  metric["lowerIsBetter"] = true;
  for (size_t i = 0; i < pages.size(); ++i) {
    const double page_mean = -NumberOrNan(pages[i]["logProb"]) / NumberOrNan(pages[i][unit]);
    result->samples[i]["scores"][absl::StrCat(context.key, "/", name)] =
        FiniteOrNull(bits ? page_mean / std::log(2.0) : page_mean);
  }
}

// {"logProb", "tokens", "words", "bytes"} of each page.
absl::StatusOr<std::vector<json>> ScorePages(const LoadedModel& model, const Rules& rules,
                                             absl::Span<const std::string> pages, Scorer& scorer) {
  std::vector<Sequence> sequences;
  std::vector<json> values;
  std::vector<size_t> owners;
  for (const std::string& page : pages) {
    QD_ASSIGN_OR_RETURN(std::vector<Sequence> windows, PageSequences(model, rules, page));
    int64_t tokens = 0;
    for (Sequence& window : windows) {
      tokens += window.scored;
      owners.push_back(values.size());
      sequences.push_back(std::move(window));
    }
    values.push_back({{"logProb", 0.0},
                      {"tokens", tokens},
                      {"words", PythonWordCount(page)},
                      {"bytes", page.size()}});
  }
  QD_ASSIGN_OR_RETURN(const std::vector<Score> scores, scorer.Run(sequences));
  std::vector<double> sums(values.size(), 0);
  for (size_t i = 0; i < scores.size(); ++i) sums[owners[i]] += scores[i].log_prob;
  for (size_t i = 0; i < sums.size(); ++i) values[i]["logProb"] = FiniteOrNull(sums[i]);
  return values;
}

absl::StatusOr<TaskResult> Run(TaskContext& context) {
  const std::string phase = absl::StrCat("evaluate ", context.key);
  QD_ASSIGN_OR_RETURN(std::string text, ReadFile(context.data_path, kTextBytesMax));
  if (IsParquet(text)) {
    // Rows of whole pages, or the Hub's rows of lines.
    QD_ASSIGN_OR_RETURN(const std::string lines, ParquetToJsonLines(text), context.data_path);
    const bool pages = absl::StrContains(lines.substr(0, lines.find('\n')), "\"page\":");
    if (pages) {
      text = lines;
    } else {
      QD_ASSIGN_OR_RETURN(text, ParquetToText(text, "text"), context.data_path);
    }
  }
  if (!IsValidUtf8(text)) {
    return absl::DataLossError(absl::StrCat(context.data_path, ": not valid UTF-8 text"));
  }
  std::vector<std::string> pages;
  QD_ASSIGN_OR_RETURN(pages, SplitWikitextPages(text), context.data_path);
  if (context.limit > 0 && pages.size() > static_cast<size_t>(context.limit)) {
    pages.resize(static_cast<size_t>(context.limit));
  }
  Rules rules{.bos = context.options["bos"], .window = context.options["max_length"]};
  const int64_t positions = context.model.PositionsMax();
  if (rules.window == 0) rules.window = positions > 0 ? positions : 2048;
  if (positions > 0 && rules.window > positions) {
    return absl::InvalidArgumentError(absl::StrCat("option \"max_length\" is ", rules.window,
                                                   "; the model was made for at most ", positions,
                                                   " positions"));
  }
  Scorer scorer(context.job, context.model, context.batch_size);
  const auto total = static_cast<int64_t>(pages.size());
  const auto compute = [&](int64_t first, int64_t last) -> absl::StatusOr<std::vector<json>> {
    const auto some = absl::MakeConstSpan(pages).subspan(static_cast<size_t>(first),
                                                         static_cast<size_t>(last - first));
    QD_ASSIGN_OR_RETURN(std::vector<json> values, ScorePages(context.model, rules, some, scorer),
                        "pages from ", first);
    context.job.events.Progress({phase, last, total, "page"});
    return values;
  };
  const std::string digest = Sha256Hex(text);
  QD_ASSIGN_OR_RETURN(const std::vector<json> values,
                      RunParts(context.job,
                               {.name = context.key,
                                .fingerprint = TaskFingerprint(context, digest),
                                .items = total,
                                .items_per_part = kPagesPerPart},
                               compute, nullptr));
  const json common = {
      {"samples", values.size()},
      {"dataDigest", digest},
      {"protocol",
       absl::StrCat("lm-evaluation-harness wikitext 2.0 data=sha256:", digest.substr(0, 12),
                    " pages=", total, " max_length=", rules.window, " bos=", rules.bos,
                    " softmax=float32 dtype=", context.model.DtypeName())}};
  TaskResult result;
  for (size_t i = 0; i < values.size(); ++i) {
    result.samples.push_back(values[i]);
    result.samples.back()["id"] = i;
  }
  AddMetric(context, values, "word_perplexity", "words", common, &result);
  AddMetric(context, values, "byte_perplexity", "bytes", common, &result);
  AddMetric(context, values, "bits_per_byte", "bytes", common, &result);
  AddMetric(context, values, "token_perplexity", "tokens", common, &result);
  return result;
}

}  // namespace

const Task& WikitextTask() {
  static const Task& task = *new Task{
      .name = "wikitext",
      .aliases = {},
      .summary = "Word, byte and token perplexity of WikiText's pages, as lm-evaluation-harness.",
      .options = {{"bos",
                   OptionType::kString,
                   "tokenizer",
                   {"tokenizer", "none"},
                   {},
                   {},
                   "Begin-of-text token before a page: as the tokenizer does by itself, or none; "
                   "the first window has one before it in any case."},
                  {"max_length",
                   OptionType::kInt,
                   0,
                   {},
                   0,
                   {},
                   "Tokens that a window predicts; 0: the model's maximum."}},
      .metrics = {"word_perplexity", "byte_perplexity", "bits_per_byte", "token_perplexity"},
      .needs_data = true,
      .run = Run,
      .row = nullptr};
  return task;
}

}  // namespace quantd::engine
