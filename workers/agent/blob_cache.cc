// The folder is the truth: blobs/ab/abcd…, and partial/abcd… for downloads under way. The index in
// memory only remembers sizes and uses.
#include "workers/agent/blob_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace quantd {
namespace fs = std::filesystem;

namespace {

// Also of a file that is named by its descriptor.
int LinkFile(const std::string& source, const std::string& target) {
  return linkat(AT_FDCWD, source.c_str(), AT_FDCWD, target.c_str(), AT_SYMLINK_FOLLOW);
}

}  // namespace

absl::Status LinkOrCopy(const std::string& source, const std::string& target) {
  QD_RETURN_IF_ERROR(MakeFolders(fs::path(target).parent_path().string()));
  if (unlink(target.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus(errno, "replacing ", target);
  }
  if (LinkFile(source, target) == 0) return absl::OkStatus();
  std::error_code error;
  if (!fs::copy_file(source, target, error)) {
    return ErrnoStatus(error.value(), "copying ", source, " to ", target);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<BlobCache>> BlobCache::Open(const std::string& folder,
                                                           int64_t limit_bytes) {
  std::unique_ptr<BlobCache> cache(new BlobCache(folder, limit_bytes));
  QD_RETURN_IF_ERROR(cache->Load(), "opening the blob cache");
  return cache;
}

std::string BlobCache::PathOf(const std::string& sha256) const {
  return absl::StrCat(folder_, "/", sha256.substr(0, 2), "/", sha256);
}

absl::Status BlobCache::Load() {
  QD_RETURN_IF_ERROR(MakeFolders(folder_ + "/partial"));
  absl::MutexLock lock(&mutex_);
  std::error_code error;
  fs::recursive_directory_iterator files(folder_, error), end;
  for (; !error && files != end; files.increment(error)) {
    struct stat info;
    const std::string path = files->path().string();
    if (lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    const std::string name = files->path().filename().string();
    const absl::Time used = absl::TimeFromTimespec(info.st_mtim);
    if (files->path().parent_path().filename() == "partial") {
      if (absl::Now() - used > absl::Hours(24)) unlink(path.c_str());
    } else if (IsSha256Hex(name)) {
      entries_[name] = {.size_bytes = info.st_size, .last_use = used};
      size_bytes_ += info.st_size;
    }
  }
  if (error) return ErrnoStatus(error.value(), "listing ", folder_);
  while (size_bytes_ > limit_bytes_ && EvictOne()) {
  }
  return absl::OkStatus();
}

void BlobCache::Insert(const v1::Blob& blob) {
  Entry& entry = entries_[blob.sha256()];
  size_bytes_ += blob.size_bytes() - entry.size_bytes;
  entry.size_bytes = blob.size_bytes();
  entry.last_use = absl::Now();
  while (size_bytes_ > limit_bytes_ && EvictOne()) {
  }
}

bool BlobCache::EvictOne() {
  auto oldest = entries_.end();
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (entry->second.pins > 0) continue;
    if (oldest == entries_.end() || entry->second.last_use < oldest->second.last_use) {
      oldest = entry;
    }
  }
  if (oldest == entries_.end()) return false;
  unlink(PathOf(oldest->first).c_str());
  size_bytes_ -= oldest->second.size_bytes;
  entries_.erase(oldest);
  return true;
}

absl::Status BlobCache::MakeRoom(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  while (true) {
    QD_ASSIGN_OR_RETURN(const int64_t free_bytes, FreeDiskBytes(folder_));
    if (free_bytes >= bytes + kDiskReserveBytes) return absl::OkStatus();
    if (EvictOne()) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "the disk of ", folder_, " has ", FormatBytes(free_bytes), " free, but ",
        FormatBytes(bytes), " and a reserve of ", FormatBytes(kDiskReserveBytes), " are needed"));
  }
}

absl::Status BlobCache::Fetch(const v1::Blob& blob, BlobTransfer& transfer,
                              const TransferControl& control) {
  const std::string partial = absl::StrCat(folder_, "/partial/", blob.sha256());
  QD_RETURN_IF_ERROR(MakeRoom(blob.size_bytes() - FileSize(partial).value_or(0)));
  absl::Status got = transfer.Download(blob, partial, control);
  // What a broken disk or an older crash left in the partial file is not the store's fault: once
  // more from zero.
  if (absl::IsDataLoss(got)) got = transfer.Download(blob, partial, control);
  QD_RETURN_IF_ERROR(got);
  const std::string path = PathOf(blob.sha256());
  const std::string parent = fs::path(path).parent_path().string();
  QD_RETURN_IF_ERROR(MakeFolders(parent));
  // Read-only, because hard links to it are what engines see.
  chmod(partial.c_str(), 0444);
  if (rename(partial.c_str(), path.c_str()) != 0) return ErrnoStatus(errno, "writing ", path);
  return SyncFolder(parent);
}

absl::Status BlobCache::Place(const v1::Blob& blob, const std::string& target,
                              BlobTransfer& transfer, const TransferControl& control) {
  if (!IsSha256Hex(blob.sha256())) {
    return absl::InvalidArgumentError(absl::StrCat("\"", blob.sha256(), "\" is not a SHA-256"));
  }
  bool fetch = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto nobody_fetches = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return fetching_.count(blob.sha256()) == 0;
    };
    mutex_.Await(absl::Condition(&nobody_fetches));
    const auto found = entries_.find(blob.sha256());
    if (found != entries_.end() &&
        FileSize(PathOf(blob.sha256())).value_or(-1) != found->second.size_bytes) {
      size_bytes_ -= found->second.size_bytes;  // Somebody tidied the folder.
      entries_.erase(found);
    }
    fetch = entries_.count(blob.sha256()) == 0;
    if (fetch) {
      fetching_.insert(blob.sha256());
    } else {
      ++entries_[blob.sha256()].pins;
    }
  }
  absl::Status status;
  if (fetch) {
    status = Fetch(blob, transfer, control);
    absl::MutexLock lock(&mutex_);
    fetching_.erase(blob.sha256());
    if (!status.ok()) return status;
    ++entries_[blob.sha256()].pins;
    Insert(blob);
  }
  status = LinkOrCopy(PathOf(blob.sha256()), target);
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_[blob.sha256()];
  --entry.pins;
  entry.last_use = absl::Now();
  return status;
}

absl::Status BlobCache::Adopt(const std::string& path, const v1::Blob& blob) {
  const std::string target = PathOf(blob.sha256());
  {
    absl::MutexLock lock(&mutex_);
    if (entries_.count(blob.sha256()) > 0) return absl::OkStatus();
  }
  // Only a link: what would need a copy is not worth the disk.
  QD_RETURN_IF_ERROR(MakeFolders(fs::path(target).parent_path().string()));
  if (LinkFile(path, target) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, "keeping ", path, " in the blob cache");
  }
  chmod(target.c_str(), 0444);
  absl::MutexLock lock(&mutex_);
  Insert(blob);
  return absl::OkStatus();
}

bool BlobCache::Contains(const std::string& sha256) {
  absl::MutexLock lock(&mutex_);
  return entries_.count(sha256) > 0;
}

int64_t BlobCache::size_bytes() {
  absl::MutexLock lock(&mutex_);
  return size_bytes_;
}

}  // namespace quantd
