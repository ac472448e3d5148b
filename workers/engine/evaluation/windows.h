// A text cut into windows of tokens, and the rule by which it was cut in words: a perplexity means
// nothing without it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/evaluation/loaded_model.h"
#include "workers/engine/evaluation/scorer.h"
#include "workers/engine/job/options.h"

namespace quantd::engine {

struct TextWindows {
  std::vector<Sequence> windows;
  std::string protocol;  // "wiki.test.raw sha256:173c87a5 joined=rows window=2048 stride=2048 ..."
  std::string digest;    // SHA-256 of the text file.
  int64_t scored_tokens = 0;
  int64_t scored_bytes = 0;  // Of the text that the scored tokens stand for.
};

// The options that decide the cut: protocol, window, stride, max_tokens, bos, join.
std::vector<OptionInfo> WindowOptions();

// Reads `path` (UTF-8 text), tokenizes it once, and cuts windows; `limit` > 0 keeps the first so
// many. InvalidArgument when the text is shorter than one window, with its length in tokens.
absl::StatusOr<TextWindows> CutWindows(const LoadedModel& model, const std::string& path,
                                       const nlohmann::json& options, int limit);

// Windows between two checkpoints: seconds of work on a CPU, and on a GPU so many that what is
// done between two parts does not keep it waiting.
int64_t WindowsPerPart(const LoadedModel& model);

}  // namespace quantd::engine
