// A model ready to be measured: folder resolved, device chosen, weights (plain or quantized) and
// tokenizer loaded, and what that took.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"
#include "workers/engine/models/model.h"
#include "workers/engine/tokenizer/tokenizer.h"

namespace quantd::engine {

struct LoadedModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  std::string folder;
  std::string digest;      // Checkpoint::Digest().
  int64_t size_bytes = 0;  // Of the tensors as they lie on the disk.
  double load_seconds = 0;

  // The longest sequence that the model was made for.
  int64_t PositionsMax() const { return model->config().max_position_embeddings; }
  // The model's begin-of-text token, as its config or its tokenizer says.
  std::optional<int64_t> BosId() const;
  // Token ids; `special`: with what the tokenizer adds by itself (a begin-of-text token, mostly).
  absl::StatusOr<std::vector<int64_t>> Encode(absl::string_view text, bool special) const;
  // Text without special tokens.
  std::string Decode(absl::Span<const int64_t> ids) const;
  std::string DeviceName() const;
  std::string DtypeName() const;
};

// Sets threads, seed and device as context.spec.runtime says, then loads. Where the GPU's memory is
// too small the model is loaded on the CPU, with a Fallback event, unless runtime.device names a
// GPU expressly.
absl::StatusOr<LoadedModel> LoadModel(JobContext& context, const std::string& reference);

// {"device", "dtype", "threads", "kernels" (KernelsName), "packedLinears" (how many are multiplied
// with as they are stored, by kernel), "peakHostBytes", "peakDeviceBytes"} and, where single tokens
// were computed, "decode" {"path", "why"?} (Model::decode_path): recorded with every measurement.
nlohmann::json MeasuredOn(const JobContext& context, const LoadedModel& model);

}  // namespace quantd::engine
