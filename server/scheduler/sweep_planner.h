// From a sweep's wish to jobs: a baseline of every model, and for every variant quantize -> verify
// -> evaluate -> benchmark -> compare with the baseline; one report over all of it. Pure: no store,
// no clock. Refuses empty and oversized sweeps and variants of one name.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/quantd/v1/spec.pb.h"
#include "proto/quantd/v1/sweep.pb.h"

namespace quantd {

inline constexpr int kSweepModelsMax = 64;
inline constexpr int kSweepCellsMax = 1000;  // 5001 jobs in one transaction: about a second.
// The stage that reads the results of a cell's others and of its baseline's.
inline constexpr char kCompareStage[] = "compare";

struct PlannedJob {
  std::string
      id;  // The job's name is "tenants/{tenant}/jobs/" + id; specs refer to it as "jobs/" + id.
  std::string kind;
  v1::JobSpec spec;
};

struct SweepPlan {
  // In an order in which every job comes after those that it waits for; the report is the last.
  std::vector<PlannedJob> jobs;
  // Stage.job holds "jobs/{id}"; states are not set.
  std::vector<v1::Sweep::Cell> cells;
  std::string report_id;
};

// One entry for each element of the product of the list-valued options, with its name:
// "gptq-b4-g128" from the method, `bits` and `group_size`, plus the options that vary.
absl::StatusOr<std::vector<v1::VariantSpec>> ExpandVariant(const v1::VariantSpec& variant,
                                                           const std::string& field);

// `new_id` gives an id that was never given before. InvalidArgument with the field's path below
// "spec".
absl::StatusOr<SweepPlan> PlanSweep(const v1::SweepSpec& spec,
                                    const std::function<std::string()>& new_id);

}  // namespace quantd
