// Experiments by name: one recipe each, so that `--experiment bnb_4bit_nf4` means the same
// everywhere. Options are complete where a default could change; the workers have the last word on
// what they know.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/quantd/v1/spec.pb.h"

namespace quantd {

struct Experiment {
  absl::string_view name;
  absl::string_view method;
  // A YAML flow mapping.
  absl::string_view options;
};
absl::Span<const Experiment> Experiments();

// What `sweep --quick` adds to the 16-bit baseline: 8 bits and 4 bits, without calibration.
absl::Span<const absl::string_view> QuickExperiments();

// The variant that the experiment makes, under its name. NotFound names the nearest.
absl::StatusOr<v1::VariantSpec> ExperimentVariant(const std::string& name);

}  // namespace quantd
