// The columns of each row struct, named once: the lists of SELECT, INSERT and UPDATE, the binding
// of parameters and the reading of results all come from here.
#pragma once

#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/store/job_store.h"
#include "server/store/sql.h"

namespace quantd {

// VisitColumns(row, visit) calls visit(column name, field) in the order of the table's columns.
template <typename Row, typename Visit>
requires std::is_same_v<std::remove_const_t<Row>, JobRow>
void VisitColumns(Row& row, Visit&& visit) {
  visit("seq", row.seq);
  visit("name", row.name);
  visit("tenant", row.tenant);
  visit("sweep", row.sweep_seq);
  visit("needs", row.needs);
  visit("version", row.version);
  visit("state", row.state);
  visit("priority", row.priority);
  visit("not_before", row.not_before);
  visit("clock_due", row.clock_due);
  visit("lease_expires", row.lease_expires);
  visit("queued_time", row.queued_time);
  visit("run_time", row.run_time);
  visit("progress_time", row.progress_time);
  visit("end_time", row.end_time);
  visit("lease_worker", row.lease_worker);
  visit("fencing_token", row.fencing_token);
  visit("lease_reported", row.lease_reported);
  visit("attempt_events", row.attempt_events);
  visit("counted_attempts", row.counted_attempts);
  visit("blocks_done", row.blocks_done);
  visit("released_in_row", row.released_in_row);
  visit("gpus", row.gpus);
  visit("outcome_token", row.outcome_token);
  visit("outcome_digest", row.outcome_digest);
  visit("outcome_state", row.outcome_state);
  visit("last_sequence", row.last_sequence);
  visit("record", row.record);
}

template <typename Row, typename Visit>
requires std::is_same_v<std::remove_const_t<Row>, SweepRow>
void VisitColumns(Row& row, Visit&& visit) {
  visit("seq", row.seq);
  visit("name", row.name);
  visit("tenant", row.tenant);
  visit("version", row.version);
  visit("max_parallel", row.max_parallel);
  visit("record", row.record);
}

template <typename Row, typename Visit>
requires std::is_same_v<std::remove_const_t<Row>, WorkerRow>
void VisitColumns(Row& row, Visit&& visit) {
  visit("name", row.name);
  visit("instance_id", row.instance_id);
  visit("past_instances", row.past_instances);
  visit("draining", row.draining);
  visit("register_time", row.register_time);
  visit("last_seen", row.last_seen);
  visit("disk_free_bytes", row.disk_free_bytes);
  visit("request_id", row.request_id);
  visit("request_job", row.request_job);
  visit("request_token", row.request_token);
  visit("record", row.record);
}

template <typename Row, typename Visit>
requires std::is_same_v<std::remove_const_t<Row>, RequestRow>
void VisitColumns(Row& row, Visit&& visit) {
  visit("tenant", row.tenant);
  visit("request_id", row.request_id);
  visit("body_digest", row.body_digest);
  visit("resource", row.resource);
  visit("time", row.time);
}

template <typename Row>
std::vector<std::string> ColumnNames() {
  std::vector<std::string> names;
  Row row;
  VisitColumns(row, [&](const char* name, auto&) { names.push_back(name); });
  return names;
}

// "SELECT seq, name, ... FROM table " + rest.
template <typename Row>
std::string SelectSql(absl::string_view table, absl::string_view rest) {
  return absl::StrCat("SELECT ", absl::StrJoin(ColumnNames<Row>(), ", "), " FROM ", table, " ",
                      rest);
}

// "INSERT INTO table(columns, extra) VALUES(?, ...)"; without `seq` the database gives the number.
template <typename Row>
std::string InsertSql(absl::string_view table, absl::string_view extra = "") {
  auto names = ColumnNames<Row>();
  if (names.front() == "seq") names.erase(names.begin());
  if (!extra.empty()) names.emplace_back(extra);
  return absl::StrCat("INSERT INTO ", table, "(", absl::StrJoin(names, ", "), ") VALUES(",
                      absl::StrJoin(std::vector<std::string>(names.size(), "?"), ", "), ")");
}

// What follows an InsertSql that replaces the row with the same `key` (the first column).
template <typename Row>
std::string OrReplaceSql() {
  auto names = ColumnNames<Row>();
  const std::string key = names.front();
  names.erase(names.begin());
  return absl::StrCat(" ON CONFLICT(", key, ") DO UPDATE SET ",
                      absl::StrJoin(names, ", ", [](std::string* out, const std::string& name) {
                        absl::StrAppend(out, name, "=excluded.", name);
                      }));
}

// "UPDATE table SET a=?, ... WHERE " + condition, for the columns from `first` on.
template <typename Row>
std::string UpdateSql(absl::string_view table, absl::string_view first,
                      absl::string_view condition) {
  std::vector<std::string> sets;
  bool on = false;
  for (const std::string& name : ColumnNames<Row>()) {
    on = on || name == first;
    if (on) sets.push_back(name + "=?");
  }
  return absl::StrCat("UPDATE ", table, " SET ", absl::StrJoin(sets, ", "), " WHERE ", condition);
}

// Binds the columns from `first` on.
template <typename Row>
void BindColumns(const Row& row, absl::string_view first, SqlQuery* query) {
  bool on = false;
  VisitColumns(row, [&](absl::string_view name, const auto& field) {
    on = on || name == first;
    if (on) query->Bind(field);
  });
}

template <typename Row>
absl::Status ReadRow(SqlQuery* query, Row* row) {
  VisitColumns(*row, [&](const char*, auto& field) { query->Next(&field); });
  return query->Parsed();
}

// Rows of queries that no table is like.
inline absl::Status ReadRow(SqlQuery* query, int64_t* row) {
  query->Next(row);
  return absl::OkStatus();
}

inline absl::Status ReadRow(SqlQuery* query, DependencyRow* row) {
  int64_t condition = 0;
  query->Next(&row->job);
  query->Next(&row->on);
  query->Next(&condition);
  query->Next(&row->state);
  row->condition = static_cast<v1::Dependency::Condition>(condition);
  return absl::OkStatus();
}

inline absl::Status ReadRow(SqlQuery* query, JobReferences* row) {
  query->Next(&row->seq);
  query->Next(&row->tenant);
  query->Next(&row->state);
  query->Next(&row->spec);
  query->Next(&row->outcome);
  query->Next(&row->checkpoint);
  return query->Parsed();
}

inline absl::Status ReadRow(SqlQuery* query, GarbageMark* row) {
  query->Next(&row->key);
  query->Next(&row->since);
  query->Next(&row->doomed);
  return absl::OkStatus();
}

inline absl::Status ReadRow(SqlQuery* query, std::pair<int64_t, std::string>* row) {
  query->Next(&row->first);
  query->Next(&row->second);
  return absl::OkStatus();
}

inline absl::Status ReadRow(SqlQuery* query, std::pair<std::string, int64_t>* row) {
  query->Next(&row->first);
  query->Next(&row->second);
  return absl::OkStatus();
}

inline absl::Status ReadRow(SqlQuery* query, SweepLoad* row) {
  query->Next(&row->sweep_seq);
  query->Next(&row->running);
  query->Next(&row->max_parallel);
  return absl::OkStatus();
}

inline absl::Status ReadRow(SqlQuery* query, TenantCount* row) {
  query->Next(&row->tenant);
  query->Next(&row->state);
  query->Next(&row->priority);
  query->Next(&row->count);
  return absl::OkStatus();
}

inline absl::Status ReadRow(SqlQuery* query, RunnableHead* row) {
  query->Next(&row->seq);
  query->Next(&row->tenant);
  query->Next(&row->priority);
  query->Next(&row->queued_time);
  return absl::OkStatus();
}

inline absl::Status ReadRow(SqlQuery* query, LeasedJob* row) {
  query->Next(&row->tenant);
  query->Next(&row->run_time);
  query->Next(&row->gpus);
  return absl::OkStatus();
}

}  // namespace quantd
