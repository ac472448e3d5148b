// The JobStore of a single scheduler: one SQLite file in WAL mode, synchronous=FULL, so that an
// acknowledged write survives kill -9 and power loss. One thread writes; transactions that wait
// while it syncs share the next commit (a savepoint each, so that one failure spoils no other).
// Readers have connections of their own and never wait for the writer. A second process on the same
// file, a network file system, another program's file and a newer schema are refused.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/store/job_store.h"

namespace quantd {

struct SqliteJobStoreOptions {
  // Created when missing; its folder must exist.
  std::string path;
  // false: no sync at all. For simulations that never cut the power.
  bool durable = true;
};

// Runs `PRAGMA integrity_check` when the last user of the file did not close it.
absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteJobStore(const SqliteJobStoreOptions& options);

// "ok", or what is damaged. For tests and tools; the store must not be open.
absl::StatusOr<std::string> CheckSqliteIntegrity(const std::string& path);

}  // namespace quantd
