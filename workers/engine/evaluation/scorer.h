// Log-probabilities of given tokens: what perplexity and multiple choice are made of. Sequences are
// padded on the right into batches, in which a sequence's numbers do not depend on the others
// beside it (bit for bit on a CPU in float32) but those whose beginning it shares, which are always
// the same; [B, T, V] never exists, only a bounded piece of it. A batch that does not fit the
// memory is halved.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "workers/engine/evaluation/loaded_model.h"
#include "workers/engine/models/branches.h"

namespace quantd::engine {

struct Sequence {
  std::vector<int64_t> ids;  // At least 2.
  int64_t scored = 0;        // The last so many are scored, each given all before it; < ids.size().
  // It begins with so many tokens of the sequence in front of it in the list, at most
  // ids.size() - scored of either, and may be computed together with it (models/branches.h); 0:
  // alone.
  int64_t shared = 0;
};

struct Score {
  double log_prob = 0;  // Sum over the scored tokens, natural logarithm; NaN where logits are.
  bool greedy = false;  // Each scored token is the most probable one.
};

class Scorer {
 public:
  // `batch_size` sequences at a time, those that share their beginning counting as one; 0: as many
  // as a fixed number of tokens allows. Both outlive the scorer.
  Scorer(JobContext& context, const LoadedModel& model, int batch_size);

  // Scores in the order of `sequences`. The order of computation is by length, so that little is
  // padding. `on_batch` (may be empty) is called with the number of sequences done so far.
  absl::StatusOr<std::vector<Score>> Run(absl::Span<const Sequence> sequences,
                                         const std::function<void(int64_t done)>& on_batch = {});

  const LoadedModel& model() const { return model_; }

  // Sequences of `length` tokens that are computed together.
  int64_t BatchFor(int64_t length) const;
  // After an out-of-memory error with `batch` sequences: halves it and reports the fallback; false
  // when it was 1 already.
  bool HalveBatch(int64_t batch, const absl::Status& error);

 private:
  // What one row of a batch holds: a sequence, or several that share their beginning.
  struct Row {
    size_t first = 0, count = 1;  // Of the list.
    Fork fork;
    int64_t inputs = 0;  // With the padding behind them.
  };
  Row RowOf(absl::Span<const Sequence> sequences, size_t first, size_t count) const;
  std::vector<Row> Rows(absl::Span<const Sequence> sequences) const;
  int64_t PaddedInputs(const Fork& fork) const;
  // Rows of equal inputs, all forked or none.
  absl::Status RunBatch(absl::Span<const Sequence> sequences, absl::Span<const Row> rows,
                        std::vector<Score>* scores);

  JobContext& context_;
  const LoadedModel& model_;
  int64_t batch_size_;
  int64_t batch_limit_;  // Sinks when memory runs out.
};

// Rows of logits that are made at a time: at most 64 MiB of float32, on a GPU 256.
int64_t LogitRowsMax(const LoadedModel& model);

}  // namespace quantd::engine
