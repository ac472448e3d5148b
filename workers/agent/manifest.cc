// The canonical listing: "{sha256} {size} {path}\n" per file, ordered by path.
#include "workers/agent/manifest.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

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

absl::StatusOr<OwnFile> OwnFile::Open(const std::string& folder, const std::string& relative) {
  QD_RETURN_IF_ERROR(CheckRelativePath(relative));
  std::string path = folder;
  const int root = open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) return ErrnoStatus(errno, "opening ", path);
  OwnFile file(root);
  const std::vector<std::string> parts = absl::StrSplit(relative, '/');
  for (size_t i = 0; i < parts.size(); ++i) {
    absl::StrAppend(&path, "/", parts[i]);
    // A pipe that nobody writes to must not hold us up.
    const int kind = i + 1 < parts.size() ? O_PATH | O_DIRECTORY : O_RDONLY | O_NONBLOCK;
    const int next = openat(file.fd_, parts[i].c_str(), kind | O_NOFOLLOW | O_CLOEXEC);
    if (next < 0 && (errno == ELOOP || errno == ENOTDIR)) {
      return absl::FailedPreconditionError(absl::StrCat(path, " is a symbolic link or no folder"));
    }
    if (next < 0) return ErrnoStatus(errno, "opening ", path);
    close(std::exchange(file.fd_, next));
  }
  struct stat info = {};
  if (fstat(file.fd_, &info) != 0) return ErrnoStatus(errno, "looking at ", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  }
  return file;
}

OwnFile::~OwnFile() {
  if (fd_ >= 0) close(fd_);
}

std::string OwnFile::path() const { return absl::StrCat("/proc/self/fd/", fd_); }

absl::StatusOr<v1::Blob> OwnFile::Hash() const {
  struct stat info = {};
  if (fstat(fd_, &info) != 0) return ErrnoStatus(errno, "looking at a file");
  v1::Blob blob;
  QD_ASSIGN_OR_RETURN(*blob.mutable_sha256(), Sha256File(path()));
  blob.set_size_bytes(info.st_size);
  return blob;
}

}  // namespace quantd
