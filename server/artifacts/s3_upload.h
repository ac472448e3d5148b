// One large blob on its way into the bucket: its parts go up while it is still coming in, several
// at a time, and are put together only after its digest was checked. A journal beside it says which
// parts are there, each with the SHA-256 of what was sent, so that a scheduler that was killed goes
// on with the parts whose bytes are still those of the file. A journal that was lost or damaged
// costs sending them again.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/artifacts/s3_client.h"

namespace quantd {

// A journal's first line: what there is to abort. It is written before the storage is asked for an
// upload, without an id, and again with the answer: killed between the two, we know of an upload
// without its id.
struct S3UploadId {
  std::string key;
  std::string id;
};
absl::StatusOr<S3UploadId> ReadS3Journal(const std::string& path);

// Without an id: every upload that is open under the key. One of another scheduler that sends the
// same blob is among them; it finds its own gone and sends again.
absl::Status AbortS3Upload(S3Client* client, const S3UploadId& upload);

class S3Upload {
 public:
  S3Upload(std::shared_ptr<S3Client> client, std::string key, int64_t size_bytes,
           std::string journal);
  ~S3Upload();
  S3Upload(const S3Upload&) = delete;
  S3Upload& operator=(const S3Upload&) = delete;

  // Held by who appends to the blob.
  absl::Mutex mutex;

  // Sends parts of `file` that are whole below `committed_bytes`, once several are.
  absl::Status Advance(const std::string& file, int64_t committed_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Sends the rest of `file`, whose digest is right, and puts the parts together.
  absl::Status Finish(const std::string& file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Removes what was sent.
  void Abort() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // The storage's name of it; empty before the first part.
  std::string id() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return id_; }

 private:
  struct Part {
    std::string tag;
    std::string sha256;
  };
  absl::Status OpenFile(const std::string& file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Goes on, once, with what the journal says and the file's first bytes bear out.
  absl::Status TakeUp(int64_t committed_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  absl::Status ReadJournal(int64_t committed_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  absl::Status SendTo(int64_t parts_end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  absl::StatusOr<Part> SendOne(int64_t part, const std::string& id) const;
  absl::StatusOr<std::string> DigestOf(int64_t part) const;
  int64_t SizeOf(int64_t part) const;
  absl::Status WriteJournal() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // To begin again.
  void Forget() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  absl::Status TryFinish(const std::string& file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  const std::shared_ptr<S3Client> client_;
  const std::string key_;
  const int64_t size_bytes_;
  const int64_t part_bytes_;
  const int64_t parts_total_;
  const std::string journal_;
  int fd_ = -1;  // Of the file, which is renamed when it is whole.
  bool taken_up_ ABSL_GUARDED_BY(mutex) = false;
  std::string id_ ABSL_GUARDED_BY(mutex);
  std::vector<Part> parts_ ABSL_GUARDED_BY(mutex);  // Those that are there, from the first on.
};

}  // namespace quantd
