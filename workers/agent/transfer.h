// Blobs to and from the scheduler's artifact store: in chunks, resumed where they broke off,
// checked by SHA-256.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "workers/agent/cancel_scope.h"

namespace quantd {

// Under what conditions a transfer goes on.
struct TransferControl {
  CancelScope* scope = nullptr;
  // Asked before each chunk of an upload; may wait. An error ends the transfer with that error.
  // Empty: go on.
  std::function<absl::Status()> gate;
  // Told of bytes that have moved. Empty: nobody wants to know.
  std::function<void(int64_t bytes)> moved;
  // How long to go on without a byte moved. A scheduler that cannot be reached does not count:
  // whether the work is still wanted is for its answer to say.
  absl::Duration patience = absl::Minutes(2);
};

// Thread-safe.
class BlobTransfer {
 public:
  // Not owned.
  explicit BlobTransfer(v1::ArtifactService::StubInterface* stub) : stub_(stub) {}

  absl::StatusOr<std::vector<v1::Blob>> FindMissing(const std::vector<v1::Blob>& blobs,
                                                    const TransferControl& control);
  // The store has `path`'s bytes when this returns OK. InvalidArgument: they are not what `blob`
  // says.
  absl::Status Upload(const std::string& path, const v1::Blob& blob,
                      const TransferControl& control);
  // Goes on from what `path` holds already. DataLoss: the whole has another digest; `path` is then
  // removed. On success the bytes are on disk.
  absl::Status Download(const v1::Blob& blob, const std::string& path,
                        const TransferControl& control);

 private:
  absl::Status UploadSome(int fd, const std::string& path, const v1::Blob& blob,
                          const TransferControl& control, int64_t* furthest, bool* complete);
  absl::Status DownloadSome(int fd, const v1::Blob& blob, const TransferControl& control,
                            int64_t* offset, class Sha256* digest);

  v1::ArtifactService::StubInterface* const stub_;
  // Whether links to the artifacts' own storage lead anywhere from here.
  std::atomic<bool> links_{true};
};

}  // namespace quantd
