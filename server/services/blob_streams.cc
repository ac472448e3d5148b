// A download's steps each end by starting the next one, so that no two run at once and no lock is
// needed. OnCancel needs nothing: the outstanding operation fails.
#include "server/services/blob_streams.h"

#include <algorithm>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "proto/channel.h"
#include "proto/errors.h"

namespace quantd {
namespace {

constexpr char kService[] = "quantd.v1.ArtifactService";

// One chunk is stored while the next one is on its way.
class UploadStream final : public grpc::ServerReadReactor<v1::UploadBlobRequest>,
                           public std::enable_shared_from_this<UploadStream> {
 public:
  // The reactor of a new call; it owns itself until the call is done.
  static UploadStream* Start(const ServiceContext* context, CallRecord record,
                             v1::UploadBlobResponse* response) {
    std::shared_ptr<UploadStream> stream(new UploadStream(context, std::move(record), response));
    stream->self_ = stream;
    absl::MutexLock lock(&stream->mutex_);
    stream->StartRead(&stream->incoming_);
    return stream.get();
  }

  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    (ok ? arrived_ : closed_) = true;
    Go();
  }
  void OnDone() override { const std::shared_ptr<UploadStream> last = std::move(self_); }

 private:
  UploadStream(const ServiceContext* context, CallRecord record, v1::UploadBlobResponse* response)
      : context_(context), response_(response), record_(std::move(record)) {}

  // Does the next thing there is to do, unless a chunk is being stored.
  void Go() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (storing_ || ended_) return;
    if (arrived_) {
      arrived_ = false;
      storing_ = true;
      chunk_.Swap(&incoming_);
      // Nothing follows the last one, and the answer must not wait for the client to close.
      if (!chunk_.finish()) StartRead(&incoming_);
      context_->disk->PostAlways([self = shared_from_this()] { self->Store(); });
    } else if (closed_) {
      // The client has closed its side, or is gone: what came is kept.
      End(state_.complete || state_.committed_bytes > 0 || !upload_.empty()
              ? absl::OkStatus()
              : FieldError("upload", "is missing: the stream was empty"));
    }
  }

  void Store() {
    absl::StatusOr<UploadState> state = Append();  // Alone: storing_ is set.
    absl::MutexLock lock(&mutex_);
    storing_ = false;
    if (!state.ok()) return End(state.status());
    state_ = *std::move(state);
    if (state_.complete || chunk_.finish()) return End(absl::OkStatus());
    Go();
  }

  absl::StatusOr<UploadState> Append() {
    if (upload_.empty()) {
      upload_ = chunk_.upload();
    } else if (!chunk_.upload().empty() && chunk_.upload() != upload_) {
      return FieldError("upload", "changed within the stream");
    }
    return context_->artifacts->Append({.upload = upload_,
                                        .offset_bytes = chunk_.offset(),
                                        .data = chunk_.data(),
                                        .finish = chunk_.finish()});
  }

  // A read that is still out fails, and OnDone comes after it.
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ended_ = true;
    response_->set_committed_bytes(state_.committed_bytes);
    response_->set_complete(state_.complete);
    EndCall(*context_, record_, status);
    Finish(ToGrpcStatus(status));
  }

  const ServiceContext* const context_;
  v1::UploadBlobResponse* const response_;
  const CallRecord record_;
  v1::UploadBlobRequest chunk_;  // Of Store's thread while storing_.
  std::string upload_;
  UploadState state_;
  std::shared_ptr<UploadStream> self_;  // Until OnDone.

  absl::Mutex mutex_;
  v1::UploadBlobRequest incoming_ ABSL_GUARDED_BY(mutex_);
  bool arrived_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool storing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

class DownloadStream final : public grpc::ServerWriteReactor<v1::DownloadBlobResponse> {
 public:
  DownloadStream(const ServiceContext* context, CallRecord record,
                 const v1::DownloadBlobRequest& request)
      : context_(context), request_(request), record_(std::move(record)) {
    context_->disk->PostAlways([this] { Open(); });
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the reader has gone"));
    if (offset_bytes_ >= end_bytes_) return End(absl::OkStatus());
    context_->disk->PostAlways([this] { Load(); });
  }
  void OnDone() override { delete this; }

 private:
  void Open() {
    auto reader = context_->artifacts->Open(request_.sha256());
    if (!reader.ok()) return End(reader.status());
    reader_ = *std::move(reader);
    const int64_t size_bytes = reader_->size_bytes();
    if (request_.offset() < 0 || request_.limit_bytes() < 0) {
      return End(FieldError(request_.offset() < 0 ? "offset" : "limit_bytes", "is negative"));
    }
    if (request_.offset() > size_bytes) {
      return End(absl::OutOfRangeError(absl::StrCat(
          "offset ", request_.offset(), " is beyond the blob's ", size_bytes, " bytes")));
    }
    offset_bytes_ = request_.offset();
    const int64_t left_bytes = size_bytes - offset_bytes_;
    end_bytes_ =
        offset_bytes_ +
        (request_.limit_bytes() == 0 ? left_bytes : std::min(left_bytes, request_.limit_bytes()));
    if (offset_bytes_ >= end_bytes_) return End(absl::OkStatus());
    if (request_.accept_link()) chunk_.set_link(reader_->Link());
    if (chunk_.link().empty()) return Load();
    end_bytes_ = offset_bytes_;  // Nothing follows.
    StartWrite(&chunk_);
  }

  void Load() {
    auto data =
        reader_->Read(offset_bytes_, std::min<int64_t>(kChunkBytes, end_bytes_ - offset_bytes_));
    if (!data.ok()) return End(data.status());
    chunk_.set_offset(offset_bytes_);
    offset_bytes_ += static_cast<int64_t>(data->size());
    chunk_.set_data(*std::move(data));
    StartWrite(&chunk_);
  }

  void End(const absl::Status& status) {
    EndCall(*context_, record_, status);
    Finish(ToGrpcStatus(status));
  }

  const ServiceContext* const context_;
  const v1::DownloadBlobRequest request_;
  const CallRecord record_;
  std::shared_ptr<BlobReader> reader_;
  int64_t offset_bytes_ = 0;
  int64_t end_bytes_ = 0;
  v1::DownloadBlobResponse chunk_;
};

}  // namespace

grpc::ServerReadReactor<v1::UploadBlobRequest>* StartUploadStream(
    const ServiceContext* context, grpc::CallbackServerContext* rpc,
    v1::UploadBlobResponse* response) {
  CallRecord record = BeginCall(*context, *rpc, kService, "UploadBlob", nullptr);
  if (record.admitted.ok()) return UploadStream::Start(context, std::move(record), response);
  EndCall(*context, record, record.admitted);
  return new RefusedStream<grpc::ServerReadReactor<v1::UploadBlobRequest>>(record.admitted);
}

grpc::ServerWriteReactor<v1::DownloadBlobResponse>* StartDownloadStream(
    const ServiceContext* context, grpc::CallbackServerContext* rpc,
    const v1::DownloadBlobRequest* request) {
  CallRecord record = BeginCall(*context, *rpc, kService, "DownloadBlob", request);
  if (record.admitted.ok()) return new DownloadStream(context, std::move(record), *request);
  EndCall(*context, record, record.admitted);
  return new RefusedStream<grpc::ServerWriteReactor<v1::DownloadBlobResponse>>(record.admitted);
}

}  // namespace quantd
