// Log-probabilities of given tokens: what perplexity and multiple choice are made of. Sequences are
// padded on the right into batches, in which a
// sequence's numbers do not depend on the others beside it (bit for bit on a CPU in float32); [B,
// T, V] never exists, only a bounded piece of it. A batch that does not fit the memory is halved.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "workers/engine/evaluation/loaded_model.h"

namespace quantd::engine {

struct Sequence {
  std::vector<int64_t> ids;  // At least 2.
  int64_t scored = 0;        // The last so many are scored, each given all before it; < ids.size().
};

struct Score {
  double log_prob = 0;  // Sum over the scored tokens, natural logarithm; NaN where logits are.
  bool greedy = false;  // Each scored token is the most probable one.
};

class Scorer {
 public:
  // `batch_size` sequences at a time; 0: as many as a fixed number of tokens allows. Both outlive
  // the scorer.
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
  // Inputs of `sequence` with the padding behind them.
  int64_t PaddedInputs(const Sequence& sequence) const;
  absl::Status RunBatch(absl::Span<const Sequence> sequences, absl::Span<const size_t> order,
                        std::vector<Score>* scores);

  JobContext& context_;
  const LoadedModel& model_;
  int64_t batch_size_;
  int64_t batch_limit_;  // Sinks when memory runs out.
};

// Rows of logits that are made at a time: at most 64 MiB of float32, on a GPU 256.
int64_t LogitRowsMax(const LoadedModel& model);

}  // namespace quantd::engine
