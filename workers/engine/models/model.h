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
  // into logits.
  absl::StatusOr<at::Tensor> Forward(const at::Tensor& ids, KvCache* cache = nullptr) const;
  // ids int64 [B, T] -> float32 [B, T, V].
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& ids) const;

  // Greedy continuation of every prompt (lengths may differ, none empty); only the new tokens are
  // returned. A sequence's tokens do not depend on the others beside it beyond rounding.
  absl::StatusOr<std::vector<std::vector<int64_t>>> Generate(
      const std::vector<std::vector<int64_t>>& prompts, const GenerateOptions& options) const;

  const Decoder& decoder() const { return decoder_; }
  const ModelConfig& config() const { return decoder_.config(); }
  std::vector<Block>& blocks() { return blocks_; }
  int64_t size_bytes() const;
  // How many linears are multiplied with by which kernel as they are stored (PackedWeight::kernel).
  std::map<std::string, int64_t> PackedKernels() const;

 private:
  explicit Model(Decoder decoder) : decoder_(std::move(decoder)) {}
  Decoder decoder_;
  std::vector<Block> blocks_;
};

}  // namespace quantd::engine
