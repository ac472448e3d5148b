// Who changed what, and who was refused: one JSON object a line in a file that is only ever added
// to. A file that was moved away (logrotate) is made anew with the next line. A line that cannot be
// written is told to the ordinary log and refuses no call. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace quantd {

struct AuditEntry {
  absl::Time time;
  absl::string_view caller = {};  // Identity::name; empty: not known.
  absl::string_view role = {};
  absl::string_view tenant = {};
  absl::string_view peer = {};  // "ipv4:10.0.0.7:4711".
  absl::string_view method = {};
  absl::string_view resource = {};
  absl::string_view code = {};  // "OK", "PERMISSION_DENIED", ...
  absl::string_view message = {};
};

class AuditLog {
 public:
  // An empty path: nothing is kept. An error when the file cannot be made (mode 0600).
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(std::string path);
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  void Write(const AuditEntry& entry);

 private:
  explicit AuditLog(std::string path) : path_(std::move(path)) {}
  absl::Status OpenFile() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Moved() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  absl::Mutex mutex_;
  int fd_ ABSL_GUARDED_BY(mutex_) = -1;
  bool failing_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace quantd
