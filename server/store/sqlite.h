// The little of SQLite that the store needs: a connection, statements prepared once, typed binding
// and reading, errors as statuses. Not thread-safe: a connection belongs to one thread at a time.
// Times are stored as microseconds since 1970; the infinite ones as the least and the greatest
// integer.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/message_lite.h"
#include "proto/quantd/v1/job.pb.h"

namespace quantd {

int64_t ToMicros(absl::Time time);
absl::Time FromMicros(int64_t micros);

class SqliteConnection;

// One execution of a statement; gives the statement back when it goes. Errors of preparing and
// binding come out of the first Step.
class SqliteQuery {
 public:
  template <typename... Values>
  SqliteQuery(SqliteConnection* connection, absl::string_view sql, const Values&... values)
      : SqliteQuery(connection, sql) {
    (Bind(values), ...);
  }
  SqliteQuery(SqliteConnection* connection, absl::string_view sql);
  ~SqliteQuery();
  SqliteQuery(const SqliteQuery&) = delete;
  SqliteQuery& operator=(const SqliteQuery&) = delete;

  void Bind(int64_t value);
  void Bind(bool value) { Bind(int64_t{value}); }
  void Bind(v1::JobState value) { Bind(int64_t{value}); }
  void Bind(absl::Time value) { Bind(ToMicros(value)); }
  void Bind(absl::string_view value);
  void Bind(const std::string& value) { Bind(absl::string_view(value)); }
  void Bind(const google::protobuf::MessageLite& value);

  // true: a row is there. Runs a statement without rows in one call.
  absl::StatusOr<bool> Step();
  // For statements that return nothing of interest.
  absl::Status Run();

  // The next column of the row, from the left.
  void Next(int64_t* value);
  void Next(bool* value);
  void Next(v1::JobState* value);
  void Next(absl::Time* value);
  void Next(std::string* value);
  // A blob that does not parse makes `Parsed` false.
  void Next(google::protobuf::MessageLite* value);
  // DataLoss when a message of this row did not parse.
  absl::Status Parsed() const;

 private:
  SqliteConnection* connection_;
  sqlite3_stmt* statement_;
  int code_;
  int bound_ = 0;
  int column_ = 0;
  bool parsed_ = true;
};

class SqliteConnection {
 public:
  // `read_only` connections see committed snapshots and refuse writes.
  static absl::StatusOr<std::unique_ptr<SqliteConnection>> Open(const std::string& path,
                                                                bool read_only);
  ~SqliteConnection();
  SqliteConnection(const SqliteConnection&) = delete;
  SqliteConnection& operator=(const SqliteConnection&) = delete;

  // Any number of statements, results ignored.
  absl::Status Execute(const std::string& sql);
  // A prepared statement with its parameters bound in order.
  template <typename... Values>
  SqliteQuery Query(absl::string_view sql, const Values&... values) {
    return SqliteQuery(this, sql, values...);
  }
  // The first column of the first row; `otherwise` when there is none.
  template <typename... Values>
  absl::StatusOr<int64_t> Integer(int64_t otherwise, absl::string_view sql,
                                  const Values&... values) {
    auto query = Query(sql, values...);
    auto row = query.Step();
    if (!row.ok()) return row.status();
    if (*row) query.Next(&otherwise);
    return otherwise;
  }

  // What went wrong last, as a status: ResourceExhausted for a full disk, Unavailable for what may
  // pass, AlreadyExists for a broken uniqueness, DataLoss for a damaged file, else Internal.
  absl::Status Error(int code) const;
  sqlite3* handle() { return handle_; }
  int64_t changed_rows() const { return sqlite3_changes64(handle_); }

 private:
  friend class SqliteQuery;
  SqliteConnection() = default;

  sqlite3* handle_ = nullptr;
  absl::flat_hash_map<std::string, sqlite3_stmt*> statements_;
};

}  // namespace quantd
