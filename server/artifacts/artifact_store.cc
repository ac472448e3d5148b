// What every store checks about blobs and manifests before it believes them.
#include "server/artifacts/artifact_store.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "proto/errors.h"

namespace quantd {
namespace {

constexpr int kManifestFilesMax = 10'000;  // A model has tens, a report hundreds.
constexpr size_t kRoleBytesMax = 32;

absl::Status CheckFile(const v1::ManifestFile& file, const std::string& field) {
  if (const absl::Status path = CheckRelativePath(file.path()); !path.ok()) {
    return FieldError(absl::StrCat(field, ".path"), path.message());
  }
  if (file.path().find('\n') != std::string::npos)
    return FieldError(field, "has a newline in its path");
  if (file.role().size() > kRoleBytesMax)
    return FieldError(absl::StrCat(field, ".role"), "is too long");
  if (const absl::Status blob = CheckBlob(file.blob()); !blob.ok()) {
    return FieldError(absl::StrCat(field, ".blob"), blob.message());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckBlob(const v1::Blob& blob) {
  if (!IsSha256Hex(blob.sha256())) {
    return FieldError("blob.sha256", "has to be 64 lower-case hexadecimal digits");
  }
  if (blob.size_bytes() < 0) return FieldError("blob.size_bytes", "is negative");
  return absl::OkStatus();
}

absl::Status ResolveManifest(v1::Manifest* manifest) {
  if (manifest->files_size() > kManifestFilesMax) {
    return FieldError("manifest.files", absl::StrCat("has ", manifest->files_size(),
                                                     " entries; at most ", kManifestFilesMax));
  }
  std::vector<const v1::ManifestFile*> files;
  int64_t total_bytes = 0;
  for (int i = 0; i < manifest->files_size(); ++i) {
    QD_RETURN_IF_ERROR(CheckFile(manifest->files(i), absl::StrCat("manifest.files[", i, "]")));
    if (__builtin_add_overflow(total_bytes, manifest->files(i).blob().size_bytes(), &total_bytes)) {
      return FieldError("manifest.files", "sizes add up to more than 2^63");
    }
    files.push_back(&manifest->files(i));
  }
  std::sort(files.begin(), files.end(),
            [](const auto* a, const auto* b) { return a->path() < b->path(); });
  Sha256 digest;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string& path = files[i]->path();
    if (i > 0 && path == files[i - 1]->path()) {
      return FieldError("manifest.files", absl::StrCat("names \"", path, "\" twice"));
    }
    // A file that is another one's folder: its name with '/' would be a prefix of a later entry.
    const std::string as_folder = path + "/";
    const auto below = std::lower_bound(
        files.begin(), files.end(), as_folder,
        [](const auto* file, const std::string& key) { return file->path() < key; });
    if (below != files.end() && absl::StartsWith((*below)->path(), as_folder)) {
      return FieldError("manifest.files",
                        absl::StrCat("\"", path, "\" is both a file and a folder"));
    }
    digest.Update(absl::StrCat(files[i]->blob().sha256(), " ", files[i]->blob().size_bytes(), " ",
                               path, "\n"));
  }
  const std::string sha256 = digest.HexDigest();
  if (!manifest->sha256().empty() && manifest->sha256() != sha256) {
    return FieldError("manifest.sha256",
                      absl::StrCat("is not the digest of the files, which is ", sha256));
  }
  if (manifest->total_bytes() != 0 && manifest->total_bytes() != total_bytes) {
    return FieldError("manifest.total_bytes", absl::StrCat("is not the files' sum, ", total_bytes));
  }
  manifest->set_sha256(sha256);
  manifest->set_total_bytes(total_bytes);
  return absl::OkStatus();
}

}  // namespace quantd
