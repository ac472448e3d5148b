// See references.h.
#include "server/scheduler/references.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "server/scheduler/resources.h"

namespace quantd {
namespace {
// Removing a batch takes seconds.
constexpr absl::Duration kRemovalRetry = absl::Seconds(5);
}  // namespace

std::string BlobKey(absl::string_view sha256) { return absl::StrCat("blobs/", sha256); }

std::string ArtifactKey(absl::string_view tenant, absl::string_view sha256) {
  return absl::StrCat("artifacts/", tenant, "/", sha256);
}

std::vector<std::string> BlobKeys(const v1::Manifest& manifest) {
  std::vector<std::string> keys;
  for (const v1::ManifestFile& file : manifest.files())
    keys.push_back(BlobKey(file.blob().sha256()));
  return keys;
}

std::vector<std::string> ArtifactKeys(absl::string_view tenant, const v1::JobSpec& spec) {
  std::vector<std::string> keys;
  for (const SpecReference& reference : ReferencesOf(spec)) {
    if (!IsArtifactReference(reference.reference)) continue;
    keys.push_back(ArtifactKey(tenant, reference.reference.substr(sizeof("artifacts/") - 1)));
  }
  return keys;
}

std::vector<std::string> KeysOf(const JobReferences& job) {
  std::vector<std::string> keys = ArtifactKeys(job.tenant, job.spec);
  const auto add = [&](const v1::Manifest& manifest) {
    for (std::string& key : BlobKeys(manifest)) keys.push_back(std::move(key));
  };
  add(job.outcome.output());
  if (!job.outcome.output().sha256().empty()) {
    keys.push_back(ArtifactKey(job.tenant, job.outcome.output().sha256()));
  }
  if (job.state != v1::JOB_STATE_SUCCEEDED) add(job.checkpoint);
  return keys;
}

absl::Status KeepReachable(Txn& txn, const std::vector<std::string>& keys) {
  if (keys.empty()) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const std::vector<GarbageMark> marks, txn.GarbageMarks(keys));
  if (marks.empty()) return absl::OkStatus();
  for (const GarbageMark& mark : marks) {
    if (!mark.doomed) continue;
    return WithRetryAfter(
        absl::UnavailableError(absl::StrCat(
            mark.key,
            " is being removed, because no job led to it for long; try again in a moment")),
        kRemovalRetry);
  }
  return txn.DeleteGarbageMarks(keys);
}

}  // namespace quantd
