// Manifests as this worker makes them: files named by path, ordered, with the digest that names the
// whole.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/quantd/v1/artifact.pb.h"

namespace quantd {

// Files by path.
using FileMap = std::map<std::string, v1::ManifestFile>;

FileMap ToFileMap(const v1::Manifest& manifest);
// Digest and total are computed as artifact.proto says.
v1::Manifest ToManifest(const FileMap& files);

// A regular file below a folder that an engine writes to, opened step by step: it may put a
// symbolic link to what it must not read in any file's or folder's place, between any two of our
// looks.
class OwnFile {
 public:
  // FailedPrecondition for what is no regular file or behind a symbolic link.
  static absl::StatusOr<OwnFile> Open(const std::string& folder, const std::string& relative);
  OwnFile(OwnFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnFile& operator=(OwnFile&&) = delete;
  ~OwnFile();

  // Leads to what was opened, whatever lies under its name by now.
  std::string path() const;
  absl::StatusOr<v1::Blob> Hash() const;

 private:
  explicit OwnFile(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace quantd
