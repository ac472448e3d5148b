// Small files done right: whole, durable, with errors that name the path. Nothing here throws.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantd {

// A status for `error` (an errno value): NotFound, PermissionDenied, ResourceExhausted for a full
// disk, ...
absl::Status ErrnoStatusText(int error, absl::string_view words);
template <typename... Words>
absl::Status ErrnoStatus(int error, const Words&... words) {
  return ErrnoStatusText(error, absl::StrCat(words...));
}

// The whole file; ResourceExhausted when it is larger than `limit_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t limit_bytes = int64_t{1} << 30);

// Writes `path` so that after a crash at any moment it holds either the old bytes or all of the new
// ones: a temporary file beside it, fsync, rename, fsync of the folder.
absl::Status WriteFileAtomic(const std::string& path, absl::string_view bytes);

// Makes `path`'s folder entry durable after a rename or creation in it.
absl::Status SyncFolder(const std::string& folder);

// mkdir -p; fine when it exists.
absl::Status MakeFolders(const std::string& path);

// Removes a file or a whole tree; fine when it does not exist.
absl::Status RemoveTree(const std::string& path);

absl::StatusOr<int64_t> FileSize(const std::string& path);
bool FileExists(const std::string& path);
// Bytes that an unprivileged process may still write on the file system that holds `path`.
absl::StatusOr<int64_t> FreeDiskBytes(const std::string& path);

// Whether `name` is safe as one component or a relative path below a folder that we own: no empty,
// "." or ".." component, no leading '/', no backslash, no control character, valid UTF-8, at most
// 255 bytes a component and 1,024 in all. InvalidArgument says which rule it breaks.
absl::Status CheckRelativePath(absl::string_view name);

// "1.5 GiB", "312 KiB", "17 B".
std::string FormatBytes(int64_t bytes);

}  // namespace quantd
