// What jobs lead to in the artifact store, and the half of garbage collection that belongs to the
// queue: whoever makes something reachable takes its mark away in the same transaction, and is
// refused when it is being removed. The other half is server/garbage.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/quantd/v1/artifact.pb.h"
#include "proto/quantd/v1/job.pb.h"
#include "server/store/job_store.h"

namespace quantd {

// Keys of garbage marks.
std::string BlobKey(absl::string_view sha256);  // "blobs/{sha256}"
std::string ArtifactKey(absl::string_view tenant,
                        absl::string_view sha256);  // "artifacts/{tenant}/{sha256}"
// Of the manifest's files.
std::vector<std::string> BlobKeys(const v1::Manifest& manifest);
// Of the artifacts that the spec names.
std::vector<std::string> ArtifactKeys(absl::string_view tenant, const v1::JobSpec& spec);
// Of what the job leads to but for the files that its events told of. A checkpoint of a job that
// succeeded leads nowhere: nothing goes on from it.
std::vector<std::string> KeysOf(const JobReferences& job);

// Takes marks away. Unavailable + RetryInfo when one of these is being removed: it is gone in a
// moment, and may then be made anew.
absl::Status KeepReachable(Txn& txn, const std::vector<std::string>& keys);

}  // namespace quantd
