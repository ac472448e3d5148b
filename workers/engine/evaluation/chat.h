// A model's chat template: a prompt as the user's message, ready for the answer. Read from
// chat_template.jinja or tokenizer_config.json; what a template asks for beyond template.h is
// refused, naming it.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/evaluation/template.h"

namespace quantd::engine {

struct ChatTemplate {
  Template text;
  std::string bos, eos;  // The texts of the tokens, for the template.
  std::string digest;    // SHA-256 of the template's text.

  // `system` may be empty: no such message.
  absl::StatusOr<std::string> Render(absl::string_view system, absl::string_view prompt) const;
};

// InvalidArgument where the model in `folder` has none.
absl::StatusOr<ChatTemplate> LoadChatTemplate(const std::string& folder);

}  // namespace quantd::engine
