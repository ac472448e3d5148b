// What the queue itself relies on in a spec: a kind, names, numbers and signs. Methods' options and
// tasks' names are checked against the workers' catalog by the services.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/quantd/v1/spec.pb.h"

namespace quantd {

inline constexpr int kDependenciesMax = 10'000;  // A report over a large sweep has thousands.

// InvalidArgument with the field's path below "spec".
absl::Status CheckJobSpec(const v1::JobSpec& spec);
absl::Status CheckSweepSpec(const v1::SweepSpec& spec);
// At most 36 printable characters.
absl::Status CheckRequestId(absl::string_view request_id);

}  // namespace quantd
