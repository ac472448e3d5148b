// A folder in the Hugging Face layout: config.json and one file of tensors, or several with an
// index; safetensors, or state dictionaries of torch.save (pytorch_model.bin), which are read as
// data and never run. Or a GGUF file, alone or the only weights of its folder, shown as such a
// folder. Opening it maps all files and checks all headers, so that a damaged checkpoint fails
// before any work. Refuses folders that hold only other pickles (.pt, .pth, .ckpt, .pkl).
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/checkpoint/config.h"
#include "workers/engine/checkpoint/gguf.h"
#include "workers/engine/checkpoint/safetensors.h"

namespace quantd::engine {

// config.json of a model's folder, unjudged, or what a GGUF file says instead. Errors say what the
// folder is otherwise.
absl::StatusOr<nlohmann::json> ReadModelConfigJson(const std::string& folder);

// Immutable; thread-safe. Shared, because tensors and weight sources refer to its mapped files.
class Checkpoint {
 public:
  // `folder` may hold symbolic links (the Hub's cache does), but an index may only name plain files
  // in the folder. It may be a GGUF file itself.
  static absl::StatusOr<std::shared_ptr<const Checkpoint>> Open(const std::string& folder);

  const std::string& folder() const { return folder_; }
  const ModelConfig& config() const { return config_; }
  const nlohmann::json& raw_config() const { return raw_config_; }

  // The GGUF file that this is; null for a folder of safetensors. Its tensors have Hugging Face's
  // names; matrices are bytes U8 [rows, bytes a row] called "<module>.gguf_<type>".
  const GgufFile* gguf() const { return gguf_; }

  // Sorted.
  std::vector<std::string> names() const;
  bool Has(absl::string_view name) const { return tensors_.contains(name); }
  // The view lives as long as the checkpoint. NotFound says which files were searched.
  absl::StatusOr<TensorView> Find(absl::string_view name) const;
  // The file that holds `name`; empty when none does.
  std::string FileOf(absl::string_view name) const;
  void ReleasePages(absl::string_view name) const;

  // Of all tensors; the files are a little larger.
  int64_t total_bytes() const { return total_bytes_; }
  // Names of the files of tensors, sorted.
  std::vector<std::string> file_names() const;
  // Small files that belong to the model and that a quantized copy takes over unchanged (tokenizer,
  // generation config, chat template, licence, ...): names in the folder, sorted. Never code,
  // weights or config.json.
  std::vector<std::string> CompanionFiles() const;

  // SHA-256 over every tensor's name, dtype, shape and bytes in the order of names, 64 hexadecimal
  // digits. The same for any sharding of the same tensors. Reads everything once.
  std::string Digest() const;

 private:
  struct Place {
    const TensorFile* file;
    const TensorView* view;
  };
  Checkpoint() = default;
  absl::Status AddFile(const std::string& path);
  absl::Status AddSingle(const std::string& path);
  absl::Status AddIndexed(const std::string& index_path, absl::string_view suffix);
  void AddTensor(const std::string& name, const TensorFile& file);
  absl::Status AddGguf(const std::string& path);
  // Files saved from the bare decoder (GPT-2's first ones) lack the prefix of the whole model.
  void AddPrefix(const std::string& prefix);

  std::string folder_;
  ModelConfig config_;
  nlohmann::json raw_config_;
  std::vector<std::unique_ptr<TensorFile>> files_;
  absl::btree_map<std::string, Place> tensors_;
  int64_t total_bytes_ = 0;
  const GgufFile* gguf_ = nullptr;  // In files_.
};

}  // namespace quantd::engine
