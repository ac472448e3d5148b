// Manifests as this worker makes them: files named by path, ordered, with the digest that names the
// whole.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/quantd/v1/artifact.pb.h"

namespace quantd {

// Files by path.
using FileMap = std::map<std::string, v1::ManifestFile>;

FileMap ToFileMap(const v1::Manifest& manifest);
// Digest and total are computed as artifact.proto says.
v1::Manifest ToManifest(const FileMap& files);

// Digest and size of a regular file; FailedPrecondition for anything else, links included.
absl::StatusOr<v1::Blob> HashFile(const std::string& path);

// OK when `relative` is a safe path and names a regular file below `folder` without a symbolic link
// on the way.
absl::Status CheckOwnFile(const std::string& folder, const std::string& relative);

}  // namespace quantd
