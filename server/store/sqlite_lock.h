// A file lock that keeps a second scheduler off a database, and the check that the file system can
// be trusted with one.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace quantd {

// Holds `path` + ".lock" exclusively until it is destroyed or the process ends.
class DatabaseLock {
 public:
  DatabaseLock() = default;
  ~DatabaseLock();
  DatabaseLock(DatabaseLock&& other) noexcept : file_(other.file_) { other.file_ = -1; }
  DatabaseLock& operator=(DatabaseLock&&) = delete;

  // FailedPrecondition: another process holds it (its id is in the message), or the folder is on a
  // network file system, where neither locks nor a WAL's shared memory are dependable.
  static absl::StatusOr<DatabaseLock> Take(const std::string& path);

 private:
  int file_ = -1;
};

}  // namespace quantd
