// The draws of few-shot examples are made for all documents at once, so that neither a resumed job
// nor another order of computation changes them.
#include "workers/engine/evaluation/requests.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/python_random.h"
#include "workers/engine/evaluation/python_text.h"
#include "workers/engine/evaluation/scoring.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

// The right answer as an example shows it.
absl::StatusOr<std::string> TargetText(const TaskRow& row, const json& document) {
  if (row.target) return row.target->Render(document);
  if (row.choices.empty()) {
    return absl::InvalidArgumentError("few-shot examples need a target");
  }
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> choices, ChoiceTexts(row, document));
  QD_ASSIGN_OR_RETURN(const size_t gold, GoldChoice(row, document, choices));
  return choices[gold];
}

absl::StatusOr<std::string> ExampleText(const TaskRow& row, const json& document) {
  QD_ASSIGN_OR_RETURN(const std::string prompt, row.prompt->Render(document), "prompt");
  QD_ASSIGN_OR_RETURN(const std::string target, TargetText(row, document), "target");
  return absl::StrCat(prompt, row.target_delimiter, target, row.few_shot_delimiter);
}

std::string BosText(const LoadedModel& model) {
  const std::optional<int64_t> bos = model.BosId();
  return bos ? model.tokenizer->IdToToken(static_cast<int32_t>(*bos)) : "";
}

}  // namespace

absl::StatusOr<std::vector<std::string>> RenderPrompts(const TaskRow& row,
                                                       const PromptSettings& settings,
                                                       const std::vector<json>& documents,
                                                       const std::vector<json>& pool, bool own) {
  const size_t draws = static_cast<size_t>(settings.few_shot) + (own ? 1 : 0);
  if (settings.few_shot > 0 && draws > pool.size()) {
    return absl::InvalidArgumentError(absl::StrCat("option \"num_fewshot\" is ", settings.few_shot,
                                                   ", but there are only ", pool.size(),
                                                   " documents to draw from"));
  }
  PythonRandom random(settings.few_shot_seed);
  std::vector<std::string> prompts;
  for (size_t i = 0; i < documents.size(); ++i) {
    std::string text;
    if (settings.few_shot > 0) {
      int shown = 0;
      for (const size_t drawn : random.Sample(pool.size(), draws)) {
        if ((own && drawn == i) || shown == settings.few_shot) continue;
        QD_ASSIGN_OR_RETURN(const std::string example, ExampleText(row, pool[drawn]),
                            "few-shot example ", drawn);
        text += example;
        ++shown;
      }
    }
    QD_ASSIGN_OR_RETURN(const std::string prompt, row.prompt->Render(documents[i]), "document ",
                        documents[i]["id"].dump(), ": prompt");
    text += prompt;
    if (settings.chat) {
      QD_ASSIGN_OR_RETURN(text, settings.chat->Render(settings.system, text));
    }
    prompts.push_back(std::move(text));
  }
  return prompts;
}

absl::StatusOr<std::vector<std::string>> Continuations(const TaskRow& row, bool chat,
                                                       const json& document) {
  std::vector<std::string> texts = row.continuations;
  if (row.choices.empty() || row.generate) return texts;
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> choices, ChoiceTexts(row, document));
  for (const std::string& choice : choices) {
    texts.push_back(absl::StrCat(chat ? "" : row.target_delimiter, choice));
  }
  return texts;
}

absl::StatusOr<std::vector<int64_t>> EncodePrompt(const LoadedModel& model, const std::string& bos,
                                                  const std::string& text) {
  const std::string bos_text = BosText(model);
  const bool has_bos = !bos_text.empty() && absl::StartsWith(text, bos_text);
  QD_ASSIGN_OR_RETURN(std::vector<int64_t> ids, model.Encode(text, bos == "tokenizer" && !has_bos));
  if (bos == "always" && !has_bos) {
    if (!model.BosId()) {
      return absl::InvalidArgumentError(
          "option \"bos\" is \"always\", but the model names no begin-of-text token");
    }
    ids.insert(ids.begin(), *model.BosId());
  }
  return ids;
}

namespace {

// The token before a continuation that has no prompt.
absl::StatusOr<int64_t> PrefixId(const LoadedModel& model) {
  if (model.BosId()) return *model.BosId();
  const std::vector<int32_t>& ends = model.tokenizer->eos_ids();
  if (!ends.empty()) return ends[0];
  return absl::InvalidArgumentError(
      "an empty prompt needs a begin-of-text or end-of-text token; the model names none");
}

absl::StatusOr<Sequence> WithoutPrompt(const LoadedModel& model, const std::string& ending) {
  Sequence sequence;
  QD_ASSIGN_OR_RETURN(sequence.ids, model.Encode(ending, false));
  sequence.scored = static_cast<int64_t>(sequence.ids.size());
  QD_ASSIGN_OR_RETURN(const int64_t prefix, PrefixId(model));
  if (!sequence.ids.empty() && sequence.ids[0] == prefix) {
    --sequence.scored;
  } else {
    sequence.ids.insert(sequence.ids.begin(), prefix);
  }
  return sequence;
}

}  // namespace

absl::StatusOr<std::vector<Sequence>> ScoredSequences(const LoadedModel& model,
                                                      const std::string& bos,
                                                      const std::string& prompt,
                                                      absl::Span<const std::string> continuations) {
  // White space at the border belongs to the continuation.
  const std::string context(PythonStripRight(prompt));
  std::vector<int64_t> context_ids;
  if (!context.empty()) {
    QD_ASSIGN_OR_RETURN(context_ids, EncodePrompt(model, bos, context));
  }
  const int64_t kept = model.PositionsMax() > 0 ? model.PositionsMax() + 1 : INT64_MAX;
  std::vector<Sequence> sequences;
  bool whole = true;  // All so far begin where the prompt does.
  for (const std::string& continuation : continuations) {
    const std::string ending = prompt.substr(context.size()) + continuation;
    Sequence sequence;
    if (context.empty()) {
      QD_ASSIGN_OR_RETURN(sequence, WithoutPrompt(model, ending));
    } else {
      QD_ASSIGN_OR_RETURN(const std::vector<int64_t> whole,
                          EncodePrompt(model, bos, context + ending));
      sequence.scored =
          static_cast<int64_t>(whole.size()) - static_cast<int64_t>(context_ids.size());
      // The context's own tokens, then the rest of the whole's.
      sequence.ids = context_ids;
      if (sequence.scored > 0) {
        sequence.ids.insert(sequence.ids.end(), whole.end() - sequence.scored, whole.end());
      }
    }
    // The last one is only predicted.
    if (static_cast<int64_t>(sequence.ids.size()) > kept) {
      sequence.ids.erase(sequence.ids.begin(), sequence.ids.end() - kept);
      whole = false;
    }
    if (whole && !sequences.empty()) sequence.shared = static_cast<int64_t>(context_ids.size());
    if (sequence.scored < 1 || sequence.scored >= static_cast<int64_t>(sequence.ids.size())) {
      sequence.scored = 0;
    }
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

}  // namespace quantd::engine
