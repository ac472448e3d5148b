// Table by table, in the order in which they refer to each other.
#include "server/store/copy_store.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "server/store/postgres.h"
#include "server/store/postgres_schema.h"
#include "server/store/sqlite.h"
#include "server/store/sqlite_lock.h"
#include "server/store/sqlite_schema.h"

namespace quantd {
namespace {

struct Table {
  const char* name;
  const char* identity;  // The column that the database numbers; null: none.
};
// Not here: the counters, of which one is copied, tenant_counts, which triggers keep, and garbage,
// which is found again.
constexpr Table kTables[] = {
    {"settings", nullptr},      {"records", nullptr},     {"needs", "id"},
    {"sweeps", "seq"},          {"jobs", "seq"},          {"job_blobs", nullptr},
    {"job_labels", nullptr},    {"events", "position"},   {"dependencies", nullptr},
    {"workers", nullptr},       {"requests", nullptr},    {"results", nullptr},
    {"tenant_shares", nullptr}, {"gpu_seconds", nullptr}, {"artifact_bytes", nullptr},
};

struct Column {
  std::string name;
  bool integer = false;
};

absl::StatusOr<std::vector<Column>> ColumnsOf(SqliteConnection* from, const char* table) {
  auto query = from->Query("SELECT name, type FROM pragma_table_info(?) ORDER BY cid", table);
  std::vector<Column> columns;
  while (true) {
    QD_ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return columns;
    std::string type;
    query.Next(&columns.emplace_back().name);
    query.Next(&type);
    columns.back().integer = type == "INTEGER";
  }
}

absl::StatusOr<int64_t> CopyRows(SqliteConnection* from, PostgresConnection* to,
                                 const char* table) {
  QD_ASSIGN_OR_RETURN(const std::vector<Column> columns, ColumnsOf(from, table));
  const std::string names = absl::StrJoin(
      columns, ", ",
      [](std::string* out, const Column& column) { absl::StrAppend(out, column.name); });
  const std::string insert =
      absl::StrCat("INSERT INTO ", table, "(", names, ") VALUES(",
                   absl::StrJoin(std::vector<std::string>(columns.size(), "?"), ", "), ")");
  auto rows = from->Query(absl::StrCat("SELECT ", names, " FROM ", table));
  for (int64_t count = 0;; ++count) {
    QD_ASSIGN_OR_RETURN(const bool more, rows.Step());
    if (!more) return count;
    auto query = to->Query(insert);
    for (const Column& column : columns) {
      int64_t integer = 0;
      std::string bytes;
      if (column.integer) {
        rows.Next(&integer);
        query.Bind(integer);
      } else {
        rows.Next(&bytes);
        query.Bind(bytes);
      }
    }
    QD_RETURN_IF_ERROR(query.Run(), "row ", count + 1);
  }
}

// Numbers go on where SQLite's stopped, even those of rows that retention has removed.
absl::Status GoOnCounting(SqliteConnection* from, PostgresConnection* to, const Table& table) {
  QD_ASSIGN_OR_RETURN(
      const int64_t largest,
      from->Integer(0, absl::StrCat("SELECT MAX(", table.identity, ") FROM ", table.name)));
  QD_ASSIGN_OR_RETURN(const int64_t given,
                      from->Integer(0, "SELECT seq FROM sqlite_sequence WHERE name=?", table.name));
  const int64_t last = std::max(largest, given);
  if (last == 0) return absl::OkStatus();
  return to->Execute(absl::StrCat("SELECT setval(pg_get_serial_sequence('", table.name, "', '",
                                  table.identity, "'), ", last, ")"));
}

absl::StatusOr<std::map<std::string, int64_t>> CopyAll(SqliteConnection* from,
                                                       PostgresConnection* to) {
  QD_RETURN_IF_ERROR(to->Execute(kPostgresWriteLock));
  for (const char* table : {"jobs", "sweeps", "workers", "requests"}) {
    QD_ASSIGN_OR_RETURN(const int64_t rows,
                        to->Integer(0, absl::StrCat("SELECT COUNT(*) FROM ", table)));
    if (rows == 0) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the target has ", rows, " ", table, " already; give an empty database"));
  }
  QD_RETURN_IF_ERROR(to->Execute("DELETE FROM settings; DELETE FROM records; DELETE FROM needs"));
  std::map<std::string, int64_t> copied;
  for (const Table& table : kTables) {
    QD_ASSIGN_OR_RETURN(copied[table.name], CopyRows(from, to, table.name), "copying ", table.name);
    if (table.identity != nullptr) {
      QD_RETURN_IF_ERROR(GoOnCounting(from, to, table), "copying ", table.name);
    }
    QD_ASSIGN_OR_RETURN(const int64_t there,
                        to->Integer(0, absl::StrCat("SELECT COUNT(*) FROM ", table.name)));
    if (there != copied[table.name]) {
      return absl::DataLossError(absl::StrCat("copying ", table.name, ": ", copied[table.name],
                                              " rows were sent and ", there, " are there"));
    }
  }
  QD_ASSIGN_OR_RETURN(const int64_t token,
                      from->Integer(0, "SELECT value FROM counters WHERE name='fencing_token'"));
  QD_RETURN_IF_ERROR(
      to->Query("UPDATE counters SET value=? WHERE name='fencing_token'", token).Run());
  return copied;
}

}  // namespace

absl::StatusOr<std::map<std::string, int64_t>> CopyStore(const std::string& sqlite_path,
                                                         const std::string& postgres_url) {
  if (!FileExists(sqlite_path)) {
    return absl::NotFoundError(absl::StrCat("there is no database ", sqlite_path));
  }
  QD_ASSIGN_OR_RETURN(const DatabaseLock lock, DatabaseLock::Take(sqlite_path));
  QD_ASSIGN_OR_RETURN(auto from, SqliteConnection::Open(sqlite_path, /*read_only=*/false));
  QD_RETURN_IF_ERROR(PrepareSchema(from.get()), "opening ", sqlite_path);
  QD_ASSIGN_OR_RETURN(auto to, PostgresConnection::Open(postgres_url));
  QD_RETURN_IF_ERROR(PreparePostgresSchema(to.get()), "opening ", PostgresPlace(postgres_url));
  // One moment of the file, and one transaction of the target.
  QD_RETURN_IF_ERROR(from->Execute("BEGIN"));
  QD_RETURN_IF_ERROR(to->Execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"));
  auto copied = CopyAll(from.get(), to.get());
  from->Execute("ROLLBACK").IgnoreError();
  if (!copied.ok()) {
    if (!to->lost()) to->Execute("ROLLBACK").IgnoreError();
    return copied.status();
  }
  QD_RETURN_IF_ERROR(to->Execute("COMMIT"), "committing the copy");
  return copied;
}

}  // namespace quantd
