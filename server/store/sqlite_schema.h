// The tables of the SQLite store and how older files are brought up to date. Refuses files of other
// programs and files that a newer quantd wrote.
#pragma once

#include "absl/status/status.h"
#include "server/store/sqlite.h"

namespace quantd {

inline constexpr int64_t kNewestSchema = 0;

// Creates or migrates, in one transaction: after a crash in the middle the file is as it was
// before. Tests of migrations stop at an older version.
absl::Status PrepareSchema(SqliteConnection* connection, int64_t version = kNewestSchema);

}  // namespace quantd
