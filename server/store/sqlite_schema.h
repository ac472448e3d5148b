// The tables of the SQLite store and how older files are brought up to date. Refuses files of other
// programs and files that a newer quantd wrote.
#pragma once

#include "absl/status/status.h"
#include "server/store/sqlite.h"

namespace quantd {

// Creates or migrates, in one transaction: after a crash in the middle the file is as it was
// before.
absl::Status PrepareSchema(SqliteConnection* connection);

}  // namespace quantd
