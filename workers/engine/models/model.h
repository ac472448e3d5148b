// A decoder with all its blocks in memory: forward passes and greedy generation.
//
// A quantized checkpoint is loaded by giving its WeightSource (formats/open.h); this room knows
// only plain ones, so that formats can depend on models and not the other way round.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "workers/engine/models/decode_step.h"
#include "workers/engine/models/decoder.h"

namespace quantd::engine {

struct GenerateOptions {
  int64_t new_tokens_max = 64;
  // Generation of a sequence ends after one of these (it is part of the output). Empty: never.
  std::vector<int64_t> stop_ids;
  // Called after every step with the tokens of that step, one a sequence (-1 where it has ended);
  // an error ends the whole generation with that error. May be empty.
  std::function<absl::Status(absl::Span<const int64_t> tokens)> on_step;
};

class Model {
 public:
  static absl::StatusOr<Model> Load(const ModelConfig& config, const WeightSource& source,
                                    const DecoderOptions& options);

  // ids int64 [B, T] -> hidden states [B, T, H] before the final norm; Decoder::Logits turns them
  // into logits. A cache or branches, not both.
  absl::StatusOr<at::Tensor> Forward(const at::Tensor& ids, KvCache* cache = nullptr,
                                     const Branches* branches = nullptr) const;
  // ids int64 [B, T] -> float32 [B, T, V].
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& ids) const;

  // ids int64 [B, T] behind what the cache holds, which is extended -> float32 [B, V] of the last
  // position; valid until the next call. Single tokens go through a DecodeStep wherever one can be
  // made, and else, as all others do, through libtorch's operators.
  absl::StatusOr<at::Tensor> NextLogits(const at::Tensor& ids, KvCache* cache) const;

  // Greedy continuation of every prompt (lengths may differ, none empty); only the new tokens are
  // returned. A sequence's tokens do not depend on the others beside it beyond rounding.
  absl::StatusOr<std::vector<std::vector<int64_t>>> Generate(
      const std::vector<std::vector<int64_t>>& prompts, const GenerateOptions& options) const;

  const Decoder& decoder() const { return decoder_; }
  const ModelConfig& config() const { return decoder_.config(); }
  // To be changed: steps that point to them go.
  std::vector<Block>& blocks() {
    steps_.clear();
    return blocks_;
  }
  int64_t size_bytes() const;
  // How many linears are multiplied with by which kernel as they are stored (PackedWeight::kernel).
  std::map<std::string, int64_t> PackedKernels() const;
  // How single tokens were computed last: "cuda_graph", "kernels" (one by one) or "operators", and
  // why not as a graph. Empty before the first.
  struct DecodePath {
    std::string name, why;
  };
  const DecodePath& decode_path() const { return decode_path_; }

 private:
  explicit Model(Decoder decoder) : decoder_(std::move(decoder)) {}
  // Null, with the reason in decode_path_, where the operators must do.
  DecodeStep* StepFor(int64_t batch, const KvCache& cache) const;

  Decoder decoder_;
  std::vector<Block> blocks_;
  // By batch size; an error is not tried again.
  mutable std::map<int64_t, absl::StatusOr<std::unique_ptr<DecodeStep>>> steps_;
  mutable DecodePath decode_path_;
};

}  // namespace quantd::engine
