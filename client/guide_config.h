// The configuration files that people already have: the keys of the common GGUF/AWQ guide, mapped
// onto a job. Refused, with file and line: unknown keys and values of the wrong kind; with the
// choices: a method, or an output format that cannot hold what the method makes.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/quantd/v1/guide.pb.h"
#include "proto/quantd/v1/spec.pb.h"

namespace quantd {

struct GuidedJob {
  v1::QuantizeSpec spec;
  std::string output;
  // What a key cannot do here, for people: one sentence each.
  std::vector<std::string> notes;
};

absl::StatusOr<GuidedJob> MapGuideConfig(const v1::GuideConfig& config);

}  // namespace quantd
