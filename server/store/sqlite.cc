// Statements are cached by their text: the store has a few dozen, and preparing one costs more than
// running it.
#include "server/store/sqlite.h"

#include <cerrno>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace quantd {
namespace {
constexpr int kBusyTimeoutMs = 5000;  // Only start-up and checkpoints ever meet another holder.
}  // namespace

int64_t ToMicros(absl::Time time) {
  if (time == absl::InfiniteFuture()) return std::numeric_limits<int64_t>::max();
  if (time == absl::InfinitePast()) return std::numeric_limits<int64_t>::min();
  return absl::ToUnixMicros(time);
}

absl::Time FromMicros(int64_t micros) {
  if (micros == std::numeric_limits<int64_t>::max()) return absl::InfiniteFuture();
  if (micros == std::numeric_limits<int64_t>::min()) return absl::InfinitePast();
  return absl::FromUnixMicros(micros);
}

SqliteQuery::SqliteQuery(SqliteConnection* connection, absl::string_view sql)
    : connection_(connection), statement_(nullptr), code_(SQLITE_OK) {
  auto& cached = connection->statements_[sql];
  if (cached == nullptr) {
    code_ = sqlite3_prepare_v3(connection->handle_, sql.data(), static_cast<int>(sql.size()),
                               SQLITE_PREPARE_PERSISTENT, &cached, nullptr);
  }
  statement_ = cached;
}

SqliteQuery::~SqliteQuery() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

void SqliteQuery::Bind(int64_t value) {
  if (code_ == SQLITE_OK) code_ = sqlite3_bind_int64(statement_, ++bound_, value);
}

void SqliteQuery::Bind(absl::string_view value) {
  if (code_ != SQLITE_OK) return;
  code_ = sqlite3_bind_text64(statement_, ++bound_, value.empty() ? "" : value.data(), value.size(),
                              SQLITE_TRANSIENT, SQLITE_UTF8);
}

void SqliteQuery::Bind(const google::protobuf::MessageLite& value) {
  if (code_ != SQLITE_OK) return;
  const std::string bytes = value.SerializeAsString();
  code_ = sqlite3_bind_blob64(statement_, ++bound_, bytes.empty() ? "" : bytes.data(), bytes.size(),
                              SQLITE_TRANSIENT);
}

absl::StatusOr<bool> SqliteQuery::Step() {
  if (code_ != SQLITE_OK) return connection_->Error(code_);
  column_ = 0;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return connection_->Error(code);
}

absl::Status SqliteQuery::Run() { return Step().status(); }

void SqliteQuery::Next(int64_t* value) { *value = sqlite3_column_int64(statement_, column_++); }

void SqliteQuery::Next(bool* value) { *value = sqlite3_column_int64(statement_, column_++) != 0; }

void SqliteQuery::Next(v1::JobState* value) {
  *value = static_cast<v1::JobState>(sqlite3_column_int(statement_, column_++));
}

void SqliteQuery::Next(absl::Time* value) {
  *value = FromMicros(sqlite3_column_int64(statement_, column_++));
}

void SqliteQuery::Next(std::string* value) {
  const int column = column_++;
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
  value->assign(bytes == nullptr ? "" : bytes, sqlite3_column_bytes(statement_, column));
}

void SqliteQuery::Next(google::protobuf::MessageLite* value) {
  const int column = column_++;
  const void* bytes = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  value->Clear();
  if (size > 0 && !value->ParseFromArray(bytes, size)) parsed_ = false;
}

absl::Status SqliteQuery::Parsed() const {
  if (parsed_) return absl::OkStatus();
  return absl::DataLossError("a stored message does not parse: the database file is damaged");
}

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteConnection::Open(const std::string& path,
                                                                         bool read_only) {
  std::unique_ptr<SqliteConnection> connection(new SqliteConnection());
  // Read-only ones open for writing too: a reader of a WAL takes part in its shared index.
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                    (read_only ? 0 : SQLITE_OPEN_CREATE);
  const int code = sqlite3_open_v2(path.c_str(), &connection->handle_, flags, nullptr);
  if (code != SQLITE_OK) {
    return Annotate(connection->Error(code), absl::StrCat("opening the database ", path));
  }
  sqlite3_busy_timeout(connection->handle_, kBusyTimeoutMs);
  QD_RETURN_IF_ERROR(
      connection->Execute(read_only ? "PRAGMA query_only=ON" : "PRAGMA foreign_keys=ON"),
      "opening the database ", path);
  return connection;
}

SqliteConnection::~SqliteConnection() {
  for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

absl::Status SqliteConnection::Execute(const std::string& sql) {
  const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code);
}

absl::Status SqliteConnection::Error(int code) const {
  const std::string words =
      absl::StrCat("SQLite: ", handle_ == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(handle_),
                   " (", code, ")");
  switch (code & 0xff) {  // The primary code; the rest says where.
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(
          absl::StrCat("the disk that holds the database is full: ", words));
    case SQLITE_IOERR:
      if (handle_ != nullptr && sqlite3_system_errno(handle_) == ENOSPC) {
        return absl::ResourceExhaustedError(
            absl::StrCat("the disk that holds the database is full: ", words));
      }
      return absl::UnavailableError(words);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PROTOCOL:
    case SQLITE_NOMEM:
      return absl::UnavailableError(words);
    case SQLITE_CONSTRAINT:
      if (code == SQLITE_CONSTRAINT_UNIQUE || code == SQLITE_CONSTRAINT_PRIMARYKEY) {
        return absl::AlreadyExistsError(words);
      }
      return absl::InternalError(words);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(words);
    default:
      return absl::InternalError(words);
  }
}

}  // namespace quantd
