// See sequences.h.
#include "workers/engine/calibration/sequences.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

// What the tokenizer puts before any text: at most its begin token, never an end token.
absl::StatusOr<std::vector<int64_t>> BeginTokens(const EncodeText& encode) {
  QD_ASSIGN_OR_RETURN(std::vector<int64_t> ids, encode("", true));
  if (ids.size() > 1) ids.erase(ids.begin() + 1, ids.end());
  return ids;
}

}  // namespace

absl::StatusOr<Sequences> CutSequences(const DocumentSet& set, const EncodeText& encode,
                                       const SequenceRequest& request) {
  const int64_t wanted = request.sequences * request.length;
  std::vector<int64_t> begin;
  bool begin_known = false;
  std::vector<int64_t> tokens;
  int64_t number = 0;
  for (const Document& document : set.documents) {
    ++number;
    const size_t start = tokens.size();
    if (document.ids.empty()) {
      if (!begin_known) {
        QD_ASSIGN_OR_RETURN(begin, BeginTokens(encode));
        begin_known = true;
      }
      QD_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, encode(document.text, false),
                          "tokenizing calibration document ", number);
      tokens.insert(tokens.end(), begin.begin(), begin.end());
      tokens.insert(tokens.end(), ids.begin(), ids.end());
    } else {
      tokens.insert(tokens.end(), document.ids.begin(), document.ids.end());
    }
    const auto outside = std::find_if(tokens.begin() + start, tokens.end(),
                                      [&](int64_t id) { return id >= request.vocabulary; });
    if (outside != tokens.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("calibration document ", number, " of ", set.source, " has token ", *outside,
                       ", but the model's vocabulary ends at ", request.vocabulary - 1));
    }
    if (static_cast<int64_t>(tokens.size()) >= wanted) break;
  }
  const int64_t count = std::min<int64_t>(request.sequences, tokens.size() / request.length);
  if (count == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("calibration text ", set.source, " has ", tokens.size(),
                     " tokens, not enough for one sequence of ", request.length,
                     "; give more text or a sequence_length of at most ", tokens.size()));
  }
  Sequences result;
  result.ids = at::empty({count, request.length}, at::kLong);
  std::copy_n(tokens.begin(), count * request.length, result.ids.mutable_data_ptr<int64_t>());
  if (count < request.sequences) {
    result.warning =
        absl::StrCat("calibration text ", set.source, " has ", tokens.size(), " tokens: ", count,
                     " sequences of ", request.length, " instead of ", request.sequences);
  }
  return result;
}

}  // namespace quantd::engine
