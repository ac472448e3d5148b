// Files of torch.save: a ZIP of stored entries, a pickle that names tensors, and their bytes. The
// reader maps the file and never runs what is in it (pickle.h); the writer streams, one tensor at a
// time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/safetensors.h"
#include "workers/engine/checkpoint/zip.h"

namespace quantd::engine {

constexpr char kTorchFileName[] = "pytorch_model.bin";
constexpr char kTorchIndexFileName[] = "pytorch_model.bin.index.json";

// A state dictionary. Thread-safe after Open.
class TorchFile : public TensorFile {
 public:
  // DataLoss: the file is damaged or hostile, is of the old format without a ZIP, or holds a tensor
  // that is not contiguous.
  static absl::StatusOr<std::unique_ptr<TorchFile>> Open(const std::string& path);
  ~TorchFile() override;
  TorchFile(const TorchFile&) = delete;
  TorchFile& operator=(const TorchFile&) = delete;

  const std::string& path() const override { return path_; }
  const std::vector<std::string>& names() const override { return names_; }
  const TensorView* Find(absl::string_view name) const override;

 private:
  TorchFile() = default;
  absl::Status Map();
  absl::Status Index();
  std::string path_;
  uint8_t* data_ = nullptr;
  int64_t size_bytes_ = 0;
  std::vector<std::string> names_;
  absl::flat_hash_map<std::string, TensorView> tensors_;
};

// Writes what torch.load(weights_only=True) gives back as a dictionary. Not thread-safe.
class TorchWriter {
 public:
  // InvalidArgument for element types that torch has no storage for.
  static absl::StatusOr<std::unique_ptr<TorchWriter>> Create(const std::string& path,
                                                             std::vector<TensorInfo> tensors);
  // In the order of Create. Fails for another name or size. ResourceExhausted: the disk is full.
  absl::Status Write(absl::string_view name, absl::Span<const uint8_t> bytes);
  // Fails when a tensor is missing. Afterwards the file is durable under its final name.
  absl::Status Finish();

 private:
  TorchWriter() = default;
  std::string path_;
  std::string prefix_;  // The archive's folder, by which torch finds its entries.
  std::vector<TensorInfo> tensors_;
  size_t written_ = 0;
  std::unique_ptr<ZipWriter> zip_;
};

}  // namespace quantd::engine
