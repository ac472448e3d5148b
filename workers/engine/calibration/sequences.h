// Token sequences of equal length out of documents: each document tokenized with one begin token
// before it (where the tokenizer has one), all concatenated in the file's order and cut. This is
// the protocol under which the published figures of other tools were measured.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/calibration/documents.h"

namespace quantd::engine {

// Ids of `text`, with the tokens that the tokenizer itself adds where `special`.
using EncodeText =
    std::function<absl::StatusOr<std::vector<int64_t>>(absl::string_view text, bool special)>;

struct SequenceRequest {
  int64_t sequences = 128;
  int64_t length = 2048;
  int64_t vocabulary = 0;  // Ids are below.
};

struct Sequences {
  at::Tensor ids;       // int64 [sequences, length], on the CPU.
  std::string warning;  // Non-empty: the text was enough for fewer sequences than asked for.
};

// Text for fewer sequences than asked for gives those that are full and a warning; InvalidArgument
// when not even one is, with the numbers and what would fit. Tokenizing stops when there is enough.
absl::StatusOr<Sequences> CutSequences(const DocumentSet& set, const EncodeText& encode,
                                       const SequenceRequest& request);

}  // namespace quantd::engine
