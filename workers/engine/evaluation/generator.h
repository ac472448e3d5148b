// Greedy answers to prompts: batches of about equal lengths, each sequence cut at the first stop
// text or end-of-text token. A batch that does not fit the memory is halved.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "workers/engine/evaluation/scorer.h"

namespace quantd::engine {

struct GenerationRequest {
  std::vector<int64_t> ids;  // The prompt; at least one token.
  std::vector<std::string> until;
  int64_t tokens_max = 256;
};

// `text` before the first place where one of `stops` begins.
std::string CutAtStops(std::string text, absl::Span<const std::string> stops);

// One text a request, in the order of the requests. `scorer` decides on batches and their halving;
// `on_batch` (may be empty) is called with the number of requests done so far.
absl::StatusOr<std::vector<std::string>> GenerateTexts(
    JobContext& context, Scorer& scorer, absl::Span<const GenerationRequest> requests,
    const std::function<void(int64_t done)>& on_batch = {});

}  // namespace quantd::engine
