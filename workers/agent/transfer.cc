// Every stream carries a bounded piece under a deadline, so that a silent peer costs minutes, not
// for ever; the loop around it asks how far the other side came and goes on there.
#include "workers/agent/transfer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/http.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "proto/errors.h"

namespace quantd {
namespace {

constexpr int64_t kPieceBytes = int64_t{64} << 20;
// 64 MiB in it is 220 KiB/s: slower than any link that is of use for models.
constexpr absl::Duration kPieceTime = absl::Minutes(5);
constexpr absl::Duration kCallTime = absl::Seconds(20);
constexpr int64_t kChunkBytes = int64_t{256}
                                << 10;     // Best measured throughput is at 64 to 256 KiB.
constexpr size_t kFindMissingMax = 5'000;  // 5,000 × 75 bytes stay well below a message's limit.

class FileHandle {
 public:
  FileHandle(const std::string& path, int flags)
      : fd_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~FileHandle() {
    if (fd_ >= 0) close(fd_);
  }
  FileHandle(const FileHandle&) = delete;
  FileHandle& operator=(const FileHandle&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

bool IsPassing(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kCancelled:   // The server is going down, or the scope, which is asked
                                         // first.
    case absl::StatusCode::kOutOfRange:  // A gap: the server forgot bytes that were not on its
                                         // disk.
      return true;
    default:
      return false;
  }
}

// Calls `step` until it is OK, an error that time does not heal, or patience is at its end. `step`
// adds what it moved to `*moved_bytes`.
template <typename Step>
absl::Status Persist(const TransferControl& control, Step step) {
  Backoff backoff;
  absl::Duration last_moved = Clock::Real().Monotonic();
  while (true) {
    if (control.scope->cancelled()) return absl::CancelledError("told to stop");
    if (control.gate) QD_RETURN_IF_ERROR(control.gate());
    int64_t moved_bytes = 0;
    const absl::Status status = step(&moved_bytes);
    if (status.ok()) return status;
    if (control.scope->cancelled()) return absl::CancelledError("told to stop");
    if (!IsPassing(status.code())) return status;
    if (moved_bytes > 0 || absl::IsUnavailable(status)) last_moved = Clock::Real().Monotonic();
    if (moved_bytes > 0) backoff.Reset();
    if (Clock::Real().Monotonic() - last_moved > control.patience) {
      return Annotate(status,
                      absl::StrCat("no progress for ", absl::FormatDuration(control.patience)));
    }
    if (!control.scope->SleepFor(backoff.Next())) return absl::CancelledError("told to stop");
  }
}

}  // namespace

absl::StatusOr<std::vector<v1::Blob>> BlobTransfer::FindMissing(const std::vector<v1::Blob>& blobs,
                                                                const TransferControl& control) {
  std::vector<v1::Blob> missing;
  for (size_t begin = 0; begin < blobs.size(); begin += kFindMissingMax) {
    v1::FindMissingBlobsRequest request;
    for (size_t i = begin; i < std::min(blobs.size(), begin + kFindMissingMax); ++i) {
      *request.add_blobs() = blobs[i];
    }
    v1::FindMissingBlobsResponse response;
    QD_RETURN_IF_ERROR(
        Persist(control,
                [&](int64_t*) {
                  CancelScope::Call call(*control.scope, kCallTime);
                  return FromGrpcStatus(stub_->FindMissingBlobs(&call.context, request, &response));
                }),
        "asking which of ", blobs.size(), " blobs the artifact store lacks");
    missing.insert(missing.end(), response.missing().begin(), response.missing().end());
  }
  return missing;
}

absl::Status BlobTransfer::UploadSome(int fd, const std::string& path, const v1::Blob& blob,
                                      const TransferControl& control, int64_t* furthest,
                                      bool* complete) {
  v1::StartUploadRequest start;
  *start.mutable_blob() = blob;
  v1::StartUploadResponse started;
  {
    CancelScope::Call call(*control.scope, kCallTime);
    QD_RETURN_IF_ERROR(FromGrpcStatus(stub_->StartUpload(&call.context, start, &started)));
  }
  if (started.complete()) {
    *complete = true;
    return absl::OkStatus();
  }
  *furthest = std::max(*furthest, started.committed_bytes());
  const int64_t chunk_bytes_max = started.max_chunk_bytes() > 0
                                      ? std::min<int64_t>(started.max_chunk_bytes(), kChunkBytes)
                                      : kChunkBytes;
  CancelScope::Call call(*control.scope, kPieceTime);
  v1::UploadBlobResponse response;
  const auto stream = stub_->UploadBlob(&call.context, &response);
  v1::UploadBlobRequest chunk;
  chunk.set_upload(started.upload());
  int64_t offset = started.committed_bytes();
  const int64_t end = std::min(blob.size_bytes(), offset + kPieceBytes);
  do {
    if (control.gate) QD_RETURN_IF_ERROR(control.gate());
    std::string& data = *chunk.mutable_data();
    data.resize(static_cast<size_t>(std::min(chunk_bytes_max, end - offset)));
    const ssize_t got = pread(fd, data.data(), data.size(), offset);
    if (got != static_cast<ssize_t>(data.size())) {
      call.context.TryCancel();
      stream->Finish();
      if (got < 0) return ErrnoStatus(errno, "reading ", path);
      return absl::InvalidArgumentError(
          absl::StrCat(path, " became shorter while it was uploaded"));
    }
    chunk.set_offset(offset);
    offset += got;
    chunk.set_finish(offset == blob.size_bytes());
    if (!stream->Write(chunk)) break;
    FaultPoint("worker/upload/sent");
    if (control.moved) control.moved(got);
    chunk.clear_upload();
  } while (offset < end);
  stream->WritesDone();
  QD_RETURN_IF_ERROR(FromGrpcStatus(stream->Finish()));
  *furthest = std::max(*furthest, response.committed_bytes());
  *complete = response.complete();
  return absl::OkStatus();
}

absl::Status BlobTransfer::Upload(const std::string& path, const v1::Blob& blob,
                                  const TransferControl& control) {
  const FileHandle file(path, O_RDONLY);
  if (file.get() < 0) return ErrnoStatus(errno, "opening ", path);
  int64_t furthest = 0;
  bool complete = false;
  int forgotten = 0;
  while (!complete) {
    const absl::Status status = Persist(control, [&](int64_t* moved_bytes) {
      const int64_t before = furthest;
      const absl::Status some = UploadSome(file.get(), path, blob, control, &furthest, &complete);
      *moved_bytes = furthest - before;
      return some;
    });
    // A scheduler that was restarted may not know the upload's name any more; it hands out a new
    // one.
    if (absl::IsNotFound(status) && ++forgotten < 5) continue;
    QD_RETURN_IF_ERROR(status, "uploading ", path, " (", FormatBytes(blob.size_bytes()), ")");
  }
  return absl::OkStatus();
}

absl::Status BlobTransfer::DownloadSome(int fd, const v1::Blob& blob,
                                        const TransferControl& control, int64_t* offset,
                                        Sha256* digest) {
  v1::DownloadBlobRequest request;
  request.set_sha256(blob.sha256());
  request.set_offset(*offset);
  request.set_limit_bytes(std::min(kPieceBytes, blob.size_bytes() - *offset));
  CancelScope::Call call(*control.scope, kPieceTime);
  request.set_accept_link(links_);
  const auto take = [&](absl::string_view data) -> absl::Status {
    const int64_t size_bytes = static_cast<int64_t>(data.size());
    if (*offset + size_bytes > blob.size_bytes()) {
      return absl::InternalError(absl::StrCat("the store sent ", size_bytes, " bytes at ", *offset,
                                              " of ", blob.size_bytes()));
    }
    if (pwrite(fd, data.data(), data.size(), *offset) != size_bytes) {
      // Not "passing": a full disk here is the job's end on this worker.
      return absl::FailedPreconditionError(ErrnoStatus(errno, "writing a blob").message());
    }
    digest->Update(data);
    *offset += size_bytes;
    if (control.moved) control.moved(size_bytes);
    return absl::OkStatus();
  };
  const auto stream = stub_->DownloadBlob(&call.context, request);
  v1::DownloadBlobResponse chunk;
  std::string link;
  absl::Status local;
  while (local.ok() && stream->Read(&chunk)) {
    if (!chunk.link().empty()) {
      link = chunk.link();
    } else if (chunk.offset() != *offset) {
      local = absl::InternalError(absl::StrCat("the store sent bytes at ", chunk.offset(),
                                               " where ", *offset, " was expected"));
    } else {
      local = take(chunk.data());
    }
  }
  if (!local.ok()) call.context.TryCancel();
  const grpc::Status finished = stream->Finish();
  if (!local.ok() || !finished.ok() || link.empty()) {
    return local.ok() ? FromGrpcStatus(finished) : local;
  }
  const absl::Status fetched = FetchHttp({.url = link,
                                          .offset_bytes = request.offset(),
                                          .limit_bytes = request.limit_bytes(),
                                          .cancelled = [&] { return control.scope->cancelled(); }},
                                         take);
  if (!fetched.ok()) links_ = false;  // The scheduler has the bytes, too.
  return fetched;
}

absl::Status BlobTransfer::Download(const v1::Blob& blob, const std::string& path,
                                    const TransferControl& control) {
  const FileHandle file(path, O_RDWR | O_CREAT);
  if (file.get() < 0) return ErrnoStatus(errno, "opening ", path);
  Sha256 digest;
  int64_t offset = 0;
  std::string buffer(size_t{1} << 20, '\0');
  for (ssize_t got; (got = pread(file.get(), buffer.data(), buffer.size(), offset)) > 0;) {
    digest.Update(buffer.data(), static_cast<size_t>(got));
    offset += got;
  }
  while (offset < blob.size_bytes()) {
    QD_RETURN_IF_ERROR(
        Persist(control,
                [&](int64_t* moved_bytes) {
                  const int64_t before = offset;
                  absl::Status some = DownloadSome(file.get(), blob, control, &offset, &digest);
                  *moved_bytes = offset - before;
                  if (some.ok() && *moved_bytes == 0)
                    some = absl::UnknownError("the store sent nothing");
                  return some;
                }),
        "downloading blob ", blob.sha256(), " at ", offset, " of ", blob.size_bytes());
  }
  if (const std::string found = digest.HexDigest();
      offset != blob.size_bytes() || found != blob.sha256()) {
    unlink(path.c_str());
    return absl::DataLossError(absl::StrCat("downloading blob ", blob.sha256(), ": got ", offset,
                                            " bytes with digest ", found));
  }
  if (fsync(file.get()) != 0) return ErrnoStatus(errno, "writing ", path);
  return absl::OkStatus();
}

}  // namespace quantd
