// Moves a queue from a SQLite file to a PostgreSQL database: every row with its number, so that
// names, page tokens, resume tokens and fencing tokens stay true.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace quantd {

// Rows copied, by table. All or nothing: the target's transaction commits once everything is in it
// and counted, and the file is only read (and brought up to this version first). FailedPrecondition
// when a scheduler has the file open or the target already has jobs, sweeps or workers.
absl::StatusOr<std::map<std::string, int64_t>> CopyStore(const std::string& sqlite_path,
                                                         const std::string& postgres_url);

}  // namespace quantd
