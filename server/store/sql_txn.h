// The primitives of job_store.h as SQL on one connection, inside a transaction that somebody else
// began. A read transaction is the same object on a connection that refuses writes.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "server/store/job_store.h"
#include "server/store/sql.h"
#include "server/store/sql_rows.h"

namespace quantd {

class SqlTxn final : public Txn {
 public:
  explicit SqlTxn(SqlConnection* db) : db_(*db) {}
  // What was published, in order.
  std::vector<std::string> TakeNews() { return std::move(news_); }

  absl::StatusOr<JobRow> GetJob(absl::string_view name) override;
  absl::StatusOr<JobRow> GetJob(int64_t seq) override;
  absl::StatusOr<v1::JobSpec> GetSpec(int64_t seq) override;
  absl::StatusOr<v1::Job> GetOutcome(int64_t seq) override;
  absl::StatusOr<v1::Manifest> GetCheckpoint(int64_t seq) override;
  absl::StatusOr<std::vector<JobRow>> ListJobs(const JobFilter& filter) override;
  absl::StatusOr<std::vector<JobRow>> SweepJobs(int64_t sweep_seq) override;
  absl::StatusOr<int64_t> UnendedSweepJobs(int64_t sweep_seq) override;
  absl::StatusOr<int64_t> QueuedBetween(absl::string_view tenant, int64_t priority, int64_t first,
                                        int64_t end) override;
  absl::StatusOr<std::vector<TenantCount>> TenantCounts() override;
  absl::StatusOr<std::vector<JobCount>> CountJobs() override;
  absl::StatusOr<std::vector<DependencyRow>> Dependencies(int64_t seq) override;
  absl::StatusOr<std::vector<DependencyRow>> Dependents(int64_t seq) override;
  absl::StatusOr<std::vector<EventRow>> ReadEvents(int64_t seq, const EventFilter& filter) override;
  absl::StatusOr<std::vector<EventRow>> ReadSweepEvents(int64_t sweep_seq,
                                                        const EventFilter& filter) override;
  absl::StatusOr<SweepRow> GetSweep(absl::string_view name) override;
  absl::StatusOr<SweepRow> GetSweep(int64_t seq) override;
  absl::StatusOr<v1::SweepSpec> GetSweepSpec(int64_t seq) override;
  absl::StatusOr<std::vector<SweepRow>> ListSweeps(absl::string_view tenant, int64_t before_seq,
                                                   int64_t limit) override;
  absl::StatusOr<std::optional<WorkerRow>> GetWorker(absl::string_view name) override;
  absl::StatusOr<std::vector<WorkerRow>> Workers() override;
  absl::StatusOr<std::vector<JobRow>> WorkerLeases(absl::string_view worker) override;
  absl::StatusOr<std::optional<RequestRow>> GetRequest(absl::string_view tenant,
                                                       absl::string_view request_id) override;
  absl::StatusOr<std::optional<int64_t>> FindResult(absl::string_view tenant,
                                                    absl::string_view inputs) override;
  absl::StatusOr<std::vector<KeptRecord>> Records(absl::string_view collection) override;
  absl::StatusOr<std::optional<std::string>> GetRecord(absl::string_view collection,
                                                       absl::string_view key) override;
  absl::StatusOr<std::string> GetSetting(absl::string_view name) override;
  absl::StatusOr<std::vector<JobReferences>> ReadReferences(int64_t after, int64_t limit) override;
  absl::StatusOr<std::vector<GarbageMark>> GarbageMarks(
      const std::vector<std::string>& keys) override;
  absl::StatusOr<std::vector<GarbageMark>> AllGarbageMarks() override;
  absl::StatusOr<std::vector<std::pair<int64_t, std::string>>> QueuedNeeds() override;
  absl::StatusOr<std::string> GetNeeds(int64_t needs) override;
  absl::StatusOr<std::vector<SweepLoad>> SweepLoads() override;
  absl::StatusOr<std::vector<RunnableHead>> RunnableHeads(
      const std::vector<int64_t>& needs, const std::vector<int64_t>& excluded_sweeps,
      absl::Time now) override;
  absl::StatusOr<std::vector<LeasedJob>> LeasedJobs() override;
  absl::StatusOr<std::vector<std::pair<std::string, int64_t>>> TenantShares() override;
  absl::StatusOr<std::vector<std::pair<std::string, int64_t>>> GpuSeconds(int64_t day) override;
  absl::StatusOr<int64_t> ArtifactBytes(absl::string_view tenant) override;
  absl::StatusOr<bool> BecomesRunnable(absl::Time after, absl::Time until) override;
  absl::StatusOr<std::vector<int64_t>> ExpiredLeases(absl::Time now, int64_t limit) override;
  absl::StatusOr<std::vector<int64_t>> DueClocks(absl::Time now, int64_t limit) override;
  absl::StatusOr<std::vector<int64_t>> Leased() override;

  absl::Status InsertJob(JobRow* row, const v1::JobSpec& spec) override;
  absl::Status UpdateJob(JobRow* row) override;
  absl::Status PutOutcome(int64_t seq, const v1::Job& outcome) override;
  absl::Status PutCheckpoint(int64_t seq, const v1::Manifest& checkpoint) override;
  absl::Status InsertDependency(const DependencyRow& row) override;
  absl::Status AppendEvent(JobRow* row, v1::JobEvent event) override;
  absl::StatusOr<int64_t> InternNeeds(absl::string_view key) override;
  absl::Status PutTenantShares(const std::vector<std::pair<std::string, int64_t>>& shares) override;
  absl::Status AddGpuSeconds(absl::string_view tenant, int64_t day, int64_t seconds) override;
  absl::Status PutArtifactBytes(absl::string_view tenant, absl::string_view sha256,
                                int64_t bytes) override;
  absl::Status DeleteArtifactBytes(absl::string_view tenant, absl::string_view sha256) override;
  absl::Status InsertSweep(SweepRow* row, const v1::SweepSpec& spec) override;
  absl::Status UpdateSweep(SweepRow* row) override;
  absl::Status PutWorker(const WorkerRow& row) override;
  absl::Status TouchWorker(const WorkerRow& row) override;
  absl::Status DeleteWorker(absl::string_view name) override;
  absl::Status InsertRequest(const RequestRow& row) override;
  absl::StatusOr<int64_t> DeleteRequestsBefore(absl::Time time, int64_t limit) override;
  absl::Status PutResult(absl::string_view tenant, absl::string_view inputs, int64_t job) override;
  absl::Status PutRecord(absl::string_view collection, const KeptRecord& record) override;
  absl::Status DeleteRecord(absl::string_view collection, absl::string_view key) override;
  absl::Status PutSetting(absl::string_view name, absl::string_view value) override;
  absl::Status PutGarbageMark(const GarbageMark& mark) override;
  absl::Status DeleteGarbageMarks(const std::vector<std::string>& keys) override;
  void Publish(std::string news) override { news_.push_back(std::move(news)); }
  absl::StatusOr<int64_t> NextFencingToken() override;
  absl::StatusOr<int64_t> DeleteJobsEndedBefore(absl::Time time, int64_t limit) override;

 private:
  // All rows of a query as structs, through ReadRow(query, row).
  template <typename Row>
  absl::StatusOr<std::vector<Row>> Rows(SqlQuery&& query);
  template <typename Message>
  absl::StatusOr<Message> JobBlob(int64_t seq, int64_t kind);
  absl::Status PutJobBlob(int64_t seq, int64_t kind, const google::protobuf::MessageLite& body);
  // `sql` takes the job or sweep, what to go on after, the kinds, and a limit. `after_of` says what
  // to go on after.
  absl::StatusOr<std::vector<EventRow>> Events(absl::string_view sql, int64_t owner,
                                               const EventFilter& filter,
                                               int64_t (*after_of)(const EventRow&));
  // The compare-and-set of UpdateJob and UpdateSweep.
  template <typename Row>
  absl::Status UpdateRow(absl::string_view table, Row* row);

  SqlConnection& db_;
  std::vector<std::string> news_;
};

template <typename Row>
absl::StatusOr<std::vector<Row>> SqlTxn::Rows(SqlQuery&& query) {
  std::vector<Row> rows;
  while (true) {
    QD_ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return rows;
    QD_RETURN_IF_ERROR(ReadRow(&query, &rows.emplace_back()));
  }
}

}  // namespace quantd
