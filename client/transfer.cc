// Uploads and downloads of blobs.
#include "client/transfer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/http.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "proto/channel.h"

namespace quantd {
namespace {

// Attempts that bring no byte at all; each one that brings some starts the count anew.
constexpr int kBarrenAttemptsMax = 6;
constexpr absl::Duration kRetryPause = absl::Milliseconds(300);
constexpr int kDownloadThreads = 2;
// Left free on the disk beside what is downloaded.
constexpr int64_t kDiskReserveBytes = int64_t{64} << 20;

class File {
 public:
  File(const std::string& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

bool IsTransient(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsAborted(status) || absl::IsUnknown(status) || absl::IsInternal(status) ||
         absl::IsOutOfRange(status);  // A gap: another scheduler has other bytes.
}

// Runs `attempt` until it succeeds, fails for good, or brings nothing too many times. It returns by
// how many bytes it came further through its argument.
absl::Status WithResume(const std::function<absl::Status(int64_t*)>& attempt) {
  absl::Status status;
  for (int barren = 0; barren < kBarrenAttemptsMax;) {
    int64_t gained = 0;
    status = attempt(&gained);
    if (status.ok() || !IsTransient(status)) return status;
    barren = gained > 0 ? 1 : barren + 1;
    absl::SleepFor(kRetryPause * barren);
  }
  return status;
}

absl::StatusOr<bool> NextChunk(int fd, int64_t size_bytes, int64_t chunk_bytes, int64_t* offset,
                               v1::UploadBlobRequest* chunk) {
  if (*offset > size_bytes) return false;
  const int64_t want = std::min(chunk_bytes, size_bytes - *offset);
  chunk->set_offset(*offset);
  chunk->mutable_data()->resize(static_cast<size_t>(want));
  const ssize_t got = pread(fd, chunk->mutable_data()->data(), static_cast<size_t>(want), *offset);
  if (got < 0) return ErrnoStatus(errno, "reading");
  if (got != want) return absl::DataLossError("the file changed while it was uploaded");
  *offset += got;
  chunk->set_finish(*offset == size_bytes);
  if (*offset == size_bytes) *offset = size_bytes + 1;  // Nothing follows the last chunk.
  return true;
}

absl::Status UploadBlob(Scheduler* scheduler, const std::string& path, const v1::Blob& blob) {
  const File file(path, O_RDONLY);
  if (file.fd() < 0) return ErrnoStatus(errno, "opening ", path);
  int64_t reached = -1;
  return WithResume([&](int64_t* gained) -> absl::Status {
    v1::StartUploadRequest start;
    *start.mutable_blob() = blob;
    QD_ASSIGN_OR_RETURN(const v1::StartUploadResponse started, scheduler->Call(start));
    if (started.complete()) return absl::OkStatus();
    *gained = reached < 0 ? 0 : started.committed_bytes() - reached;
    reached = started.committed_bytes();
    const int64_t chunk_bytes = started.max_chunk_bytes() > 0
                                    ? std::min(started.max_chunk_bytes(), kChunkBytes)
                                    : kChunkBytes;
    int64_t offset = started.committed_bytes();
    bool first = true;
    QD_ASSIGN_OR_RETURN(
        const v1::UploadBlobResponse response, scheduler->Upload([&](v1::UploadBlobRequest* chunk) {
          if (first) chunk->set_upload(started.upload());
          first = false;
          return NextChunk(file.fd(), blob.size_bytes(), chunk_bytes, &offset, chunk);
        }));
    if (!response.complete()) return absl::UnavailableError("the upload ended early");
    return absl::OkStatus();
  });
}

class Download {
 public:
  Download(Scheduler* scheduler, const DownloadRequest& request, const DownloadProgress& progress)
      : scheduler_(scheduler), request_(request), progress_(progress) {}

  absl::StatusOr<DownloadSummary> Run();

 private:
  absl::Status Plan();
  absl::Status CheckDisk() const;
  // Takes files from the plan until it is empty or a thread failed.
  void Work();
  absl::Status Fetch(const v1::ManifestFile& file);
  absl::Status Receive(const v1::Blob& blob, const std::string& partial, int64_t* have);
  // Bytes as they come, at *have.
  absl::Status Write(const File& file, const v1::Blob& blob, absl::string_view data, int64_t* have);
  // Checks the digest and gives the file its name.
  absl::Status Finish(const v1::Blob& blob, const std::string& partial, const std::string& path);
  void Advance(int64_t bytes);
  std::string PathOf(const v1::ManifestFile& file) const {
    return absl::StrCat(request_.folder, "/", file.path());
  }

  Scheduler* const scheduler_;
  const DownloadRequest& request_;
  const DownloadProgress& progress_;
  std::vector<const v1::ManifestFile*> plan_;
  int64_t bytes_total_ = 0;
  // Whether links to the artifacts' own storage lead anywhere from here.
  std::atomic<bool> links_{true};
  absl::Mutex mutex_;
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_done_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  DownloadSummary summary_ ABSL_GUARDED_BY(mutex_);
};

absl::Status Download::Plan() {
  for (const v1::ManifestFile& file : request_.manifest.files()) {
    QD_RETURN_IF_ERROR(CheckRelativePath(file.path()), "the manifest names a file that is refused");
    if (!IsSha256Hex(file.blob().sha256()) || file.blob().size_bytes() < 0) {
      return absl::DataLossError(absl::StrCat("the manifest is damaged at ", file.path()));
    }
    if (!request_.only.empty() && file.path() != request_.only) continue;
    plan_.push_back(&file);
    bytes_total_ += file.blob().size_bytes();
  }
  if (plan_.empty() && !request_.only.empty()) {
    return absl::NotFoundError(absl::StrCat("the artifact has no file \"", request_.only, "\""));
  }
  return absl::OkStatus();
}

absl::Status Download::CheckDisk() const {
  int64_t needed = kDiskReserveBytes;
  for (const v1::ManifestFile* file : plan_) {
    if (FileExists(PathOf(*file))) continue;
    const absl::StatusOr<int64_t> partial = FileSize(PathOf(*file) + ".partial");
    needed += file->blob().size_bytes() - (partial.ok() ? *partial : 0);
  }
  QD_ASSIGN_OR_RETURN(const int64_t available, FreeDiskBytes(request_.folder));
  if (needed <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("not enough disk space in ", request_.folder,
                                                   ": ", FormatBytes(needed), " needed, ",
                                                   FormatBytes(available), " free"));
}

absl::StatusOr<DownloadSummary> Download::Run() {
  QD_RETURN_IF_ERROR(Plan());
  QD_RETURN_IF_ERROR(MakeFolders(request_.folder));
  QD_RETURN_IF_ERROR(CheckDisk());
  std::vector<std::thread> threads;
  for (int i = 0; i < kDownloadThreads; ++i) threads.emplace_back([this] { Work(); });
  for (std::thread& thread : threads) thread.join();
  const absl::MutexLock lock(&mutex_);
  if (!status_.ok()) return status_;
  return summary_;
}

void Download::Work() {
  for (;;) {
    const v1::ManifestFile* file = nullptr;
    {
      const absl::MutexLock lock(&mutex_);
      if (next_ == plan_.size() || !status_.ok()) return;
      file = plan_[next_++];
    }
    const absl::Status status = Fetch(*file);
    const absl::MutexLock lock(&mutex_);
    if (!status.ok() && status_.ok()) {
      status_ = Annotate(status, absl::StrCat("downloading ", file->path()));
    }
  }
}

void Download::Advance(int64_t bytes) {
  const absl::MutexLock lock(&mutex_);
  bytes_done_ += bytes;
  if (progress_) progress_(bytes_done_, bytes_total_);
}

absl::Status Download::Fetch(const v1::ManifestFile& file) {
  const std::string path = PathOf(file);
  const absl::StatusOr<int64_t> there = FileSize(path);
  if (there.ok() && *there == file.blob().size_bytes()) {
    QD_ASSIGN_OR_RETURN(const std::string digest, Sha256File(path));
    if (digest == file.blob().sha256()) {
      Advance(*there);
      const absl::MutexLock lock(&mutex_);
      ++summary_.files_skipped;
      return absl::OkStatus();
    }
  }
  QD_RETURN_IF_ERROR(MakeFolders(std::filesystem::path(path).parent_path().string()));
  const std::string partial = path + ".partial";
  int64_t have = FileSize(partial).value_or(0);
  if (have > file.blob().size_bytes()) {
    QD_RETURN_IF_ERROR(RemoveTree(partial));
    have = 0;
  }
  Advance(have);
  QD_RETURN_IF_ERROR(WithResume([&](int64_t* gained) {
    const int64_t before = have;
    const absl::Status status = Receive(file.blob(), partial, &have);
    *gained = have - before;
    return status;
  }));
  QD_RETURN_IF_ERROR(Finish(file.blob(), partial, path));
  const absl::MutexLock lock(&mutex_);
  ++summary_.files;
  summary_.bytes += file.blob().size_bytes();
  return absl::OkStatus();
}

absl::Status Download::Write(const File& file, const v1::Blob& blob, absl::string_view data,
                             int64_t* have) {
  const int64_t size = static_cast<int64_t>(data.size());
  if (*have + size > blob.size_bytes()) {
    return absl::DataLossError("more bytes come than were asked for");
  }
  while (!data.empty()) {
    const ssize_t wrote = pwrite(file.fd(), data.data(), data.size(), *have);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoStatus(errno, "writing");
    data.remove_prefix(static_cast<size_t>(wrote));
    *have += wrote;
  }
  Advance(size);
  return absl::OkStatus();
}

absl::Status Download::Receive(const v1::Blob& blob, const std::string& partial, int64_t* have) {
  const File file(partial, O_WRONLY | O_CREAT | O_NOFOLLOW);
  if (file.fd() < 0) return ErrnoStatus(errno, "creating ", partial);
  if (*have == blob.size_bytes()) return absl::OkStatus();
  v1::DownloadBlobRequest request;
  request.set_sha256(blob.sha256());
  request.set_offset(*have);
  request.set_accept_link(links_);
  std::string link;
  absl::Status local;
  absl::Status status = scheduler_->Stream(request, [&](const v1::DownloadBlobResponse& chunk) {
    link = chunk.link();
    if (!link.empty()) return false;
    local = chunk.offset() == *have
                ? Write(file, blob, chunk.data(), have)
                : absl::DataLossError("the scheduler sends bytes that were not asked for");
    return local.ok();
  });
  if (status.ok() && !link.empty()) {
    status = FetchHttp({.url = link, .offset_bytes = *have}, [&](absl::string_view data) {
      return local = Write(file, blob, data, have);
    });
    if (!status.ok()) links_ = false;
  }
  if (!local.ok()) return Annotate(local, partial);
  if (!status.ok()) return status;
  if (*have < blob.size_bytes()) return absl::UnavailableError("the download ended early");
  if (fsync(file.fd()) != 0) return ErrnoStatus(errno, "syncing ", partial);
  return absl::OkStatus();
}

absl::Status Download::Finish(const v1::Blob& blob, const std::string& partial,
                              const std::string& path) {
  QD_ASSIGN_OR_RETURN(const std::string digest, Sha256File(partial));
  if (digest != blob.sha256()) {
    QD_RETURN_IF_ERROR(RemoveTree(partial));
    return absl::DataLossError(absl::StrCat("the bytes received have SHA-256 ", digest, ", not ",
                                            blob.sha256(), "; they were thrown away, try again"));
  }
  if (rename(partial.c_str(), path.c_str()) != 0) return ErrnoStatus(errno, "renaming ", partial);
  return SyncFolder(std::filesystem::path(path).parent_path().string());
}

}  // namespace

std::string ManifestDigest(const v1::Manifest& manifest) {
  Sha256 hash;
  for (const v1::ManifestFile& file : manifest.files()) {
    hash.Update(
        absl::StrCat(file.blob().sha256(), " ", file.blob().size_bytes(), " ", file.path(), "\n"));
  }
  return hash.HexDigest();
}

absl::StatusOr<std::string> UploadFile(Scheduler* scheduler, const std::string& parent,
                                       const std::string& path) {
  v1::CreateArtifactRequest request;
  request.set_parent(parent);
  v1::ManifestFile* file = request.mutable_manifest()->add_files();
  file->set_path(std::filesystem::path(path).filename().string());
  file->set_role("data");
  QD_RETURN_IF_ERROR(CheckRelativePath(file->path()));
  QD_ASSIGN_OR_RETURN(const int64_t size, FileSize(path));
  QD_ASSIGN_OR_RETURN(const std::string digest, Sha256File(path));
  file->mutable_blob()->set_size_bytes(size);
  file->mutable_blob()->set_sha256(digest);
  request.mutable_manifest()->set_total_bytes(size);
  request.mutable_manifest()->set_sha256(ManifestDigest(request.manifest()));
  QD_RETURN_IF_ERROR(UploadBlob(scheduler, path, file->blob()));
  QD_RETURN_IF_ERROR(scheduler->Call(request).status(), "registering the upload");
  return absl::StrCat("artifacts/", request.manifest().sha256());
}

absl::StatusOr<DownloadSummary> DownloadManifest(Scheduler* scheduler,
                                                 const DownloadRequest& request,
                                                 const DownloadProgress& progress) {
  return Download(scheduler, request, progress).Run();
}

}  // namespace quantd
