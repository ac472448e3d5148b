// The little of the S3 protocol that the artifact store needs: objects put, read and listed, large
// ones in parts, every request signed with its body's SHA-256, so that the storage refuses what was
// damaged on the way. What may pass by itself (a cut connection, 503 SlowDown, 500) is tried again
// with growing pauses. Arrow's filesystem was the other choice: a library of 60 MB that cannot
// abort what another process left behind. Thread-safe.
//
// Errors: NotFound for an object, or an upload of parts, that is not there. Everything that a
// person has to mend (no such bucket, keys refused, wrong region) or that did not pass is
// Unavailable: the caller's request was right.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/http.h"
#include "server/artifacts/s3_config.h"

namespace quantd {

struct S3Body {
  HttpBody bytes;
  std::string sha256;
};
// `text` outlives its use.
S3Body S3TextBody(absl::string_view text);

struct S3Object {
  std::string key;  // Without the prefix.
  int64_t size_bytes = 0;
};
struct S3Page {
  std::vector<S3Object> objects;  // In order.
  bool more = false;
};

// An object of parts that nobody has finished.
struct S3OpenUpload {
  std::string key;  // Without the prefix.
  std::string id;
  absl::Time start = {};
};

struct S3Read {
  std::string key;
  int64_t offset_bytes = 0;
  int64_t limit_bytes = 0;
  // One attempt of two seconds without progress: for callers that others wait for.
  bool hurry = false;
};

class S3Client {
 public:
  explicit S3Client(S3Config config);

  const S3Config& config() const { return config_; }
  // The object's size; nothing when there is none.
  absl::StatusOr<std::optional<int64_t>> Size(const std::string& key);
  // At most limit_bytes from the offset.
  absl::StatusOr<std::string> Get(const S3Read& read);
  absl::Status Put(const std::string& key, const S3Body& body);
  // Those below `folder` ("manifests/t/") whose key is after `after`.
  absl::StatusOr<S3Page> List(const std::string& folder, const std::string& after, int64_t limit);
  absl::Status Delete(const std::string& key);
  // A link that anyone may read the object through for so long.
  std::string Link(const std::string& key, absl::Duration valid);

  // An object of many parts; nobody sees it before CompleteParts. Parts count from 1; all but the
  // last have the same size, at least 5 MiB.
  absl::StatusOr<std::string> StartParts(const std::string& key);
  // The part's tag.
  absl::StatusOr<std::string> PutPart(const std::string& key, const std::string& upload, int number,
                                      const S3Body& body);
  // NotFound: the storage does not have these parts (any more).
  absl::Status CompleteParts(const std::string& key, const std::string& upload,
                             const std::vector<std::string>& part_tags, int64_t size_bytes);
  absl::Status AbortParts(const std::string& key, const std::string& upload);
  // All that are open whose key begins so, at most 10,000.
  absl::StatusOr<std::vector<S3OpenUpload>> OpenUploads(const std::string& key_prefix = "");

 private:
  struct Request;
  // Any answer but 429 and 5xx is one.
  absl::StatusOr<HttpResponse> Ask(const Request& request);
  absl::StatusOr<HttpResponse> AskOnce(const Request& request, const S3Keys& keys);
  // What the answer says went wrong.
  absl::Status Error(const HttpResponse& answer, absl::string_view what) const;
  std::string Host() const;
  std::string PathOf(const std::string& key) const;
  S3Keys Keys();
  // Whether the file has other keys than those that were refused.
  bool HasNewKeys(const S3Keys& refused);

  const S3Config config_;
  HttpConnections connections_;
  absl::Mutex mutex_;
  S3Keys keys_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd
