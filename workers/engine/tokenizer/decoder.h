// The "decoder" of a tokenizer.json: from the contents of tokens back to text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/tokenizer/json_view.h"

namespace quantd {

// Immutable and thread-safe.
class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  // Rewrites the tokens; joined without a separator they are the text.
  virtual void Apply(std::vector<std::string>* tokens) const = 0;

  // Null for a null value.
  static absl::StatusOr<std::unique_ptr<TokenDecoder>> FromJson(const JsonView& json);
};

// `bytes` with U+FFFD for every maximal piece that is not UTF-8 (the Unicode standard's practice).
std::string LossyUtf8(absl::string_view bytes);

}  // namespace quantd
