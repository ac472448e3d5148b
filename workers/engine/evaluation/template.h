// Text templates in the part of Jinja that prompts and real chat templates use: output, if, for,
// set, filters, tests, methods of strings and mappings, slices, namespace, raise_exception. What
// else a template asks for (macros, includes, unknown filters) is refused by name when it is
// parsed or met, never approximated. Values are JSON.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

struct TemplateOptions {
  // As Hugging Face renders chat templates: the newline behind a block tag and the blanks before
  // one are dropped.
  bool trim_blocks = false;
  bool lstrip_blocks = false;
  // A variable that is not there is an error where it is printed, as in lm-evaluation-harness; else
  // it is printed as nothing.
  bool strict = true;
};

// Immutable and thread-safe.
class Template {
 public:
  // InvalidArgument with the line for what is not understood.
  static absl::StatusOr<Template> Parse(absl::string_view text,
                                        const TemplateOptions& options = {});
  // `variables` is an object. InvalidArgument for what the template itself raises, for types that
  // do not fit, and for an output beyond kOutputBytesMax.
  absl::StatusOr<std::string> Render(const nlohmann::json& variables) const;

  static constexpr size_t kOutputBytesMax = size_t{64} << 20;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace quantd::engine
