// The "normalizer" of a tokenizer.json: rewrites text before it is split. Precompiled, Bert and Nmt
// normalizers are refused: no BPE model that this program quantizes uses them.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/tokenizer/json_view.h"

namespace quantd {

// A stretch of the input on its way to tokens.
struct Piece {
  std::string text;
  // Whether its first character comes from the input's first: where Metaspace's "first" scheme and
  // nothing else looks.
  bool at_start = false;
  // The id of the added token that it is, or -1.
  int32_t added_id = -1;
};

// Immutable and thread-safe.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual absl::Status Apply(Piece* piece) const = 0;

  // Null for a null value.
  static absl::StatusOr<std::unique_ptr<Normalizer>> FromJson(const JsonView& json);
};

}  // namespace quantd
