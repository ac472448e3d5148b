// The "pre_tokenizer" of a tokenizer.json: cuts text into the words inside which BPE merges.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/tokenizer/json_view.h"
#include "workers/engine/tokenizer/normalizer.h"

namespace quantd {

// Immutable and thread-safe.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Replaces every piece by what it is cut into; pieces that are added tokens stay as they are, and
  // empty pieces vanish.
  absl::Status Apply(std::vector<Piece>* pieces) const;

  // Null for a null value.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> FromJson(const JsonView& json);

 protected:
  virtual absl::Status Split(Piece piece, std::vector<Piece>* out) const = 0;
};

}  // namespace quantd
