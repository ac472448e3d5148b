// The canonical listing: "{sha256} {size} {path}\n" per file, ordered by path.
#include "workers/agent/manifest.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace quantd {

FileMap ToFileMap(const v1::Manifest& manifest) {
  FileMap files;
  for (const v1::ManifestFile& file : manifest.files()) files[file.path()] = file;
  return files;
}

v1::Manifest ToManifest(const FileMap& files) {
  v1::Manifest manifest;
  Sha256 digest;
  int64_t total_bytes = 0;
  for (const auto& [path, file] : files) {
    digest.Update(
        absl::StrCat(file.blob().sha256(), " ", file.blob().size_bytes(), " ", path, "\n"));
    total_bytes += file.blob().size_bytes();
    *manifest.add_files() = file;
  }
  manifest.set_sha256(digest.HexDigest());
  manifest.set_total_bytes(total_bytes);
  return manifest;
}

absl::StatusOr<v1::Blob> HashFile(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "looking at ", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  }
  v1::Blob blob;
  QD_ASSIGN_OR_RETURN(*blob.mutable_sha256(), Sha256File(path));
  blob.set_size_bytes(info.st_size);
  return blob;
}

absl::Status CheckOwnFile(const std::string& folder, const std::string& relative) {
  QD_RETURN_IF_ERROR(CheckRelativePath(relative));
  std::string path = folder;
  struct stat info = {};
  for (const absl::string_view part : absl::StrSplit(relative, '/')) {
    absl::StrAppend(&path, "/", part);
    if (lstat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "looking at ", path);
    if (S_ISLNK(info.st_mode)) {
      return absl::FailedPreconditionError(absl::StrCat(path, " is a symbolic link"));
    }
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  }
  return absl::OkStatus();
}

}  // namespace quantd
