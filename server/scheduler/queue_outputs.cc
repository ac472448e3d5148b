// The names of outputs. An outcome is accepted in a transaction, its output's manifest is written
// into the artifact store after it; who dies in between leaves files that no artifact names. So the
// same transaction keeps a record that the name is due, and whoever has put the manifest there
// takes the record away. Anyone may put it there any number of times: the outcome in the store says
// all that the manifest holds, its blobs were there before it was accepted and are kept since (the
// job leads to them, references.h), and the same manifest again changes nothing.
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/names.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/resources.h"

namespace quantd {
namespace {
// By artifact; the body is the job.
constexpr char kUnnamed[] = "unnamed outputs";
}  // namespace

absl::Status OweName(QueueOperation& op, const JobRow& row, const v1::Manifest& output) {
  return op.txn.PutRecord(kUnnamed,
                          {.key = ArtifactName({row.tenant, output.sha256()}), .body = row.name});
}

absl::StatusOr<std::vector<v1::Artifact>> Queue::UnnamedOutputs() {
  std::vector<v1::Artifact> artifacts;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(const auto records, txn.Records(kUnnamed));
    for (const KeptRecord& record : records) {
      v1::Artifact& artifact = artifacts.emplace_back();
      artifact.set_name(record.key);
      artifact.set_job(record.body);
      const auto row = txn.GetJob(record.body);
      if (absl::IsNotFound(row.status())) continue;  // Removed since; nothing leads there any more.
      QD_RETURN_IF_ERROR(row.status());
      QD_ASSIGN_OR_RETURN(v1::Job outcome, txn.GetOutcome(row->seq));
      // A job that was done again since has another output, and another record.
      if (ArtifactName({row->tenant, outcome.output().sha256()}) != record.key) continue;
      *artifact.mutable_manifest() = std::move(*outcome.mutable_output());
    }
    return absl::OkStatus();
  }),
                     "reading which outputs have no name yet");
  return artifacts;
}

void Queue::OutputNamed(const std::string& artifact) {
  store_->Submit([artifact](Txn& txn) { return txn.DeleteRecord(kUnnamed, artifact); },
                 [](absl::Status status) {
                   // The record stays, and with it the right to write the same manifest again.
                   if (!status.ok()) LogWarning("an output is named again later");
                 });
}

}  // namespace quantd
