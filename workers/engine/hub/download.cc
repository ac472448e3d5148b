// The .incomplete file, its range requests and its verification.
#include "workers/engine/hub/download.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

// Whether "bytes 100-199/200" begins at `offset`.
bool RangeBeginsAt(absl::string_view range, int64_t offset) {
  return absl::StartsWith(range, absl::StrCat("bytes ", offset, "-"));
}

// The file that grows.
class Incomplete {
 public:
  ~Incomplete() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  absl::Status Open(const std::string& path) {
    path_ = path;
    descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor_ < 0) return ErrnoStatus(errno, "opening ", path);
    size_ = lseek(descriptor_, 0, SEEK_END);
    return absl::OkStatus();
  }
  absl::Status Clear() {
    size_ = 0;
    if (ftruncate(descriptor_, 0) != 0) return ErrnoStatus(errno, "emptying ", path_);
    return absl::OkStatus();
  }
  absl::Status Append(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(), size_);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return ErrnoStatus(errno, "writing ", path_);
      size_ += written;
      bytes.remove_prefix(written);
    }
    return absl::OkStatus();
  }
  absl::Status Sync() {
    if (fsync(descriptor_) != 0) return ErrnoStatus(errno, "syncing ", path_);
    return absl::OkStatus();
  }
  int64_t size() const { return size_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

// Grows `incomplete` to the file's size.
absl::Status FetchBytes(const HubClient& client, const HubFile& file,
                        const std::function<void(int64_t)>& progress, Incomplete* incomplete) {
  if (incomplete->size() > file.size_bytes) QD_RETURN_IF_ERROR(incomplete->Clear());
  int64_t before = incomplete->size();
  const auto attempt = [&]() -> absl::StatusOr<HttpResponse> {
    before = incomplete->size();
    HttpRequest request;
    request.offset_bytes = incomplete->size();
    request.begin = [&](const HttpResponse& response) -> absl::Status {
      if (response.status == 206 &&
          RangeBeginsAt(response.Header("content-range"), incomplete->size())) {
        return absl::OkStatus();
      }
      // A server without ranges sends all of it again.
      return response.status == 200 ? incomplete->Clear()
                                    : absl::UnavailableError("not the range that was asked for");
    };
    request.sink = [&](absl::string_view bytes) -> absl::Status {
      if (incomplete->size() + static_cast<int64_t>(bytes.size()) > file.size_bytes) {
        return absl::DataLossError(
            absl::StrCat("more bytes than the ", file.size_bytes, " that the Hub announced"));
      }
      QD_RETURN_IF_ERROR(incomplete->Append(bytes));
      progress(incomplete->size());
      return absl::OkStatus();
    };
    QD_ASSIGN_OR_RETURN(HttpResponse response, client.Get(file, std::move(request)));
    if (response.status == 416) {
      QD_RETURN_IF_ERROR(incomplete->Clear());
      return absl::UnavailableError("the server does not have the range that was asked for");
    }
    if (response.status < 300 && incomplete->size() < file.size_bytes) {
      return absl::UnavailableError(
          absl::StrCat("only ", incomplete->size(), " of ", file.size_bytes, " bytes came"));
    }
    return response;
  };
  if (incomplete->size() == file.size_bytes && file.size_bytes > 0) return absl::OkStatus();
  HttpResponse response;
  return client.Retry(
      attempt, [&] { return incomplete->size() > before; }, file.name, &response);
}

}  // namespace

absl::Status Download(const HubClient& client, const HubCache& cache, const HubFile& file,
                      const std::function<void(int64_t)>& progress,
                      const std::function<bool()>& cancelled) {
  const std::string blob = cache.BlobPath(file.etag);
  const std::string path = cache.IncompletePath(file.etag);
  QD_ASSIGN_OR_RETURN(BlobLock lock, BlobLock::Acquire(cache, file.etag, cancelled));
  if (FileSize(blob).value_or(-1) == file.size_bytes) {
    progress(file.size_bytes);
    return absl::OkStatus();
  }
  QD_RETURN_IF_ERROR(MakeFolders(std::filesystem::path(blob).parent_path().string()));
  absl::Status status;
  // Bytes with a wrong hash are thrown away and fetched once more: what was there may be another
  // tool's remains.
  for (int round = 0; round < 2; ++round) {
    Incomplete incomplete;
    QD_RETURN_IF_ERROR(incomplete.Open(path));
    status = FetchBytes(client, file, progress, &incomplete);
    if (status.ok()) status = incomplete.Sync();
    if (status.ok()) status = CheckBlob(path, file.etag);
    if (status.ok()) {
      if (std::rename(path.c_str(), blob.c_str()) != 0) {
        return ErrnoStatus(errno, "renaming ", path);
      }
      return SyncFolder(std::filesystem::path(blob).parent_path().string());
    }
    if (!absl::IsDataLoss(status)) return status;
    LogWarning("throwing a download away", {{"file", file.name}, {"why", status.message()}});
    QD_RETURN_IF_ERROR(incomplete.Clear());
  }
  unlink(path.c_str());
  return status;
}

}  // namespace quantd
