// The "post_processor" of a tokenizer.json: puts special tokens around the ids of one text. Pairs
// of texts are not offered.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/tokenizer/json_view.h"

namespace quantd {

// Immutable and thread-safe.
class PostProcessor {
 public:
  virtual ~PostProcessor() = default;
  virtual void Apply(std::vector<int32_t>* ids) const = 0;

  // Null for a null value.
  static absl::StatusOr<std::unique_ptr<PostProcessor>> FromJson(const JsonView& json);
};

}  // namespace quantd
