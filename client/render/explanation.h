// Why a job waits and where its time goes, in lines: folded from its record, its events, the jobs
// it depends on and the workers there are. A pure function: the golden tests call it.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/render/table.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

struct ExplainedJob {
  v1::Job job;
  std::vector<v1::JobEvent> events;   // Those of kinds kExplainedKinds, in order.
  std::vector<v1::Job> dependencies;  // Of spec.dependencies, as far as they are known.
  std::vector<v1::Worker> workers;
};
inline constexpr const char* kExplainedKinds[] = {"state", "progress", "checkpoint", "fallback",
                                                  "failure"};

// One stretch of a job's life.
struct Span {
  std::string what;  // "waiting for other jobs", "waiting in the queue", "quantize", ...
  int attempt = 0;   // 0 while it waits.
  absl::Duration time;
  absl::Time start;
};
// In order of time; neighbours of one kind are one span. `now` ends the last one of a job that has
// not ended.
std::vector<Span> SpansOf(const std::vector<v1::JobEvent>& events, absl::Time now);

std::vector<std::string> ExplanationLines(const ExplainedJob& explained, absl::Time now,
                                          const Style& style);

}  // namespace quantd
