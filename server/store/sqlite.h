// SQLite as a SqlConnection.
#pragma once

#include <sqlite3.h>

#include <memory>
#include <string>

#include "server/store/sql.h"

namespace quantd {

class SqliteConnection final : public SqlConnection {
 public:
  // `read_only` connections see committed snapshots and refuse writes.
  static absl::StatusOr<std::unique_ptr<SqliteConnection>> Open(const std::string& path,
                                                                bool read_only);
  ~SqliteConnection() override;

  absl::Status Execute(const std::string& sql) override;
  int64_t changed_rows() const override { return sqlite3_changes64(handle_); }
  std::string IndexHint(absl::string_view index) const override;
  absl::string_view IntegersOfJson() const override { return "SELECT value FROM json_each(?)"; }
  absl::string_view TextsOfJson() const override { return IntegersOfJson(); }

  // What went wrong last, as a status: ResourceExhausted for a full disk, Unavailable for what may
  // pass, AlreadyExists for a broken uniqueness, DataLoss for a damaged file, else Internal.
  absl::Status Error(int code) const;
  sqlite3* handle() { return handle_; }

 private:
  SqliteConnection() = default;
  std::unique_ptr<SqlStatement> Prepare(absl::string_view sql) override;

  sqlite3* handle_ = nullptr;
};

}  // namespace quantd
