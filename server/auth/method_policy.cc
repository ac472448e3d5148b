// The table.
#include "server/auth/method_policy.h"

#include <vector>

#include "absl/strings/str_split.h"
#include "base/check.h"

namespace quantd {
namespace {

constexpr uint32_t kAdmins = 1u << v1::ADMIN;
constexpr uint32_t kWriters = 1u << v1::USER | kAdmins;
constexpr uint32_t kReaders = 1u << v1::READER | kWriters;
constexpr uint32_t kWorkers = 1u << v1::WORKER;

constexpr char kJobs[] = "quantd.v1.JobService";
constexpr char kSweeps[] = "quantd.v1.SweepService";
constexpr char kArtifacts[] = "quantd.v1.ArtifactService";
constexpr char kWorkerService[] = "quantd.v1.WorkerService";
constexpr char kCatalog[] = "quantd.v1.CatalogService";
constexpr char kAccess[] = "quantd.v1.AccessService";

constexpr bool kAudited = true;

// Blobs are named by their SHA-256 and belong to no tenant: the digest, which only manifests hold,
// is what gives access.
constexpr MethodPolicy kPolicies[] = {
    {kJobs, "SubmitJob", kWriters, Subject::kParent, "parent", kAudited},
    {kJobs, "GetJob", kReaders, Subject::kResource, "name"},
    {kJobs, "ListJobs", kReaders, Subject::kParent, "parent"},
    {kJobs, "WatchJob", kReaders, Subject::kResource, "name"},
    {kJobs, "CancelJob", kWriters, Subject::kResource, "name", kAudited},
    {kJobs, "RetryJob", kWriters, Subject::kResource, "name", kAudited},

    {kSweeps, "SubmitSweep", kWriters, Subject::kParent, "parent", kAudited},
    {kSweeps, "GetSweep", kReaders, Subject::kResource, "name"},
    {kSweeps, "ListSweeps", kReaders, Subject::kParent, "parent"},
    {kSweeps, "WatchSweep", kReaders, Subject::kResource, "name"},
    {kSweeps, "CancelSweep", kWriters, Subject::kResource, "name", kAudited},
    {kSweeps, "RetrySweep", kWriters, Subject::kResource, "name", kAudited},

    {kArtifacts, "FindMissingBlobs", kWriters | kWorkers},
    {kArtifacts, "StartUpload", kWriters | kWorkers},
    {kArtifacts, "UploadBlob", kWriters | kWorkers},
    {kArtifacts, "DownloadBlob", kReaders | kWorkers},
    {kArtifacts, "ListArtifacts", kReaders, Subject::kParent, "parent"},
    {kArtifacts, "GetArtifact", kReaders, Subject::kResource, "name"},
    {kArtifacts, "CreateArtifact", kWriters, Subject::kParent, "parent", kAudited},

    {kWorkerService, "RegisterWorker", kWorkers, Subject::kWorker, "worker.name", kAudited},
    {kWorkerService, "LeaseJob", kWorkers, Subject::kWorker, "worker"},
    {kWorkerService, "ReportJob", kWorkers, Subject::kWorker, "lease.worker"},
    {kWorkerService, "CompleteJob", kWorkers, Subject::kWorker, "lease.worker", kAudited},
    {kWorkerService, "FindResult", kWorkers, Subject::kWorker, "lease.worker"},
    {kWorkerService, "ReleaseJob", kWorkers, Subject::kWorker, "lease.worker", kAudited},
    {kWorkerService, "DeregisterWorker", kWorkers, Subject::kWorker, "worker", kAudited},

    {kCatalog, "ListWorkers", kReaders},
    {kCatalog, "GetCatalog", kReaders},

    {kAccess, "WhoAmI", kReaders | kWorkers},
    {kAccess, "CreateToken", kAdmins, Subject::kNone, "token.display_name", kAudited},
    {kAccess, "ListTokens", kAdmins},
    {kAccess, "RevokeToken", kAdmins, Subject::kNone, "name", kAudited},
    {kAccess, "PutSecret", kWriters, Subject::kResource, "name", kAudited},
    {kAccess, "ListSecrets", kReaders, Subject::kParent, "parent"},
    {kAccess, "DeleteSecret", kWriters, Subject::kResource, "name", kAudited},
};

}  // namespace

absl::Span<const MethodPolicy> MethodPolicies() { return kPolicies; }

const MethodPolicy* FindMethodPolicy(absl::string_view service, absl::string_view method) {
  for (const MethodPolicy& policy : kPolicies) {
    if (policy.method == method && policy.service == service) return &policy;
  }
  return nullptr;
}

std::string FieldAt(const google::protobuf::Message& message, absl::string_view path) {
  const google::protobuf::Message* at = &message;
  const std::vector<std::string> words = absl::StrSplit(path, '.');
  for (size_t i = 0;; ++i) {
    const auto* field = at->GetDescriptor()->FindFieldByName(words[i]);
    QD_CHECK(field != nullptr);
    if (i + 1 == words.size()) return at->GetReflection()->GetString(*at, field);
    at = &at->GetReflection()->GetMessage(*at, field);
  }
}

}  // namespace quantd
