// What a model is asked for a task's documents: prompts with their few-shot examples and chat
// template, as texts and as tokens, by the rules of lm-evaluation-harness (0.4.9.2 and later).
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "workers/engine/evaluation/chat.h"
#include "workers/engine/evaluation/loaded_model.h"
#include "workers/engine/evaluation/scorer.h"
#include "workers/engine/evaluation/task_row.h"

namespace quantd::engine {

struct PromptSettings {
  int few_shot = 0;
  uint32_t few_shot_seed = 1234;
  std::optional<ChatTemplate> chat;
  std::string system;  // The chat's system message.
};

// The prompt of every document, in order. `pool` holds the few-shot examples. `own`: it begins with
// the documents themselves, and each is asked without itself.
absl::StatusOr<std::vector<std::string>> RenderPrompts(const TaskRow& row,
                                                       const PromptSettings& settings,
                                                       const std::vector<nlohmann::json>& documents,
                                                       const std::vector<nlohmann::json>& pool,
                                                       bool own);

// The texts whose log-likelihoods are wanted behind a document's prompt.
absl::StatusOr<std::vector<std::string>> Continuations(const TaskRow& row, bool chat,
                                                       const nlohmann::json& document);

// "tokenizer": the tokenizer's own begin-of-text token, unless the text has it already; "none";
// "always".
absl::StatusOr<std::vector<int64_t>> EncodePrompt(const LoadedModel& model, const std::string& bos,
                                                  const std::string& text);

// One for each of `continuations`, which share a prompt. Context and continuation are split by
// counting the context's tokens, even where a token spans the border; the last of the model's
// positions + 1 tokens stay. `scored` is 0 where the continuation has no token or does not fit the
// model; `shared` is the prompt's tokens for all but the first, as long as none lost its beginning.
absl::StatusOr<std::vector<Sequence>> ScoredSequences(const LoadedModel& model,
                                                      const std::string& bos,
                                                      const std::string& prompt,
                                                      absl::Span<const std::string> continuations);

}  // namespace quantd::engine
