// Names of resources, page tokens, and the references that a spec makes to other jobs. Pure text
// work.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/sweep.pb.h"

namespace quantd {

// The tenant of "tenants/{tenant}"; "default" for an empty parent. A tenant is 1 to 63 of
// [a-z0-9-].
absl::StatusOr<std::string> ParseParent(absl::string_view parent);
// The tenant of "tenants/{tenant}/jobs/{job}" (collection "jobs"). NotFound where the name cannot
// be one: what is not a name names nothing.
absl::StatusOr<std::string> TenantOf(absl::string_view name, absl::string_view collection);
std::string JobName(absl::string_view tenant, absl::string_view id);
std::string SweepName(absl::string_view tenant, absl::string_view id);
// "jobs/{job}" and "tenants/{tenant}/jobs/{job}" as the latter; empty when it names no job of this
// tenant.
std::string ResolveJob(absl::string_view tenant, absl::string_view reference);
// 13 characters of [a-z2-7] from 64 random bits, a letter first.
std::string IdFromBits(uint64_t bits);

// A page token holds the last row's key and a digest of the filter: it is refused with another
// filter. It grants nothing that the request without it would not.
std::string MakePageToken(absl::string_view filter, int64_t key);
// 0 for the empty token; InvalidArgument for one of another filter.
absl::StatusOr<int64_t> ParsePageToken(absl::string_view token, absl::string_view filter);
// Default 50, at most 1000; InvalidArgument when negative.
absl::StatusOr<int64_t> PageSize(int32_t asked);

struct SpecReference {
  std::string field;      // "spec.evaluate.model"
  std::string reference;  // "jobs/{job}", "artifacts/{sha256}"
  // What a job's reference waits for.
  v1::Dependency::Condition condition = v1::Dependency::SUCCEEDED;
};
// Every "jobs/..." and "artifacts/..." of the spec, each reference once, without the declared
// dependencies.
std::vector<SpecReference> ReferencesOf(const v1::JobSpec& spec);
inline bool IsArtifactReference(absl::string_view reference) {
  return reference.substr(0, 10) == "artifacts/";
}

// "quantize", "evaluate", ...: the field set in JobSpec.kind; empty when none is.
std::string KindOf(const v1::JobSpec& spec);
// Gives `to` the kind of `from`, with nothing in it.
void SetKind(const v1::JobSpec& from, v1::JobSpec* to);

// Bit n for the oneof field n of JobEvent, from the names of WatchJobRequest.kinds ("log"); all
// when empty, and always "state". InvalidArgument names an unknown one.
absl::StatusOr<uint32_t> EventKinds(const google::protobuf::RepeatedPtrField<std::string>& kinds);

// A page of events: a thousand watchers that do not read hold this much each.
inline constexpr int64_t kPageBytes = 256 << 10;

// SHA-256 over the message's deterministic serialization.
std::string MessageDigest(const google::protobuf::MessageLite& message);
// Of a submit without its request id.
template <typename Request>
std::string RequestDigest(Request request) {
  request.clear_request_id();
  return MessageDigest(request);
}
std::string DeterministicBytes(const google::protobuf::MessageLite& message);

}  // namespace quantd
