// Which worker can do which job. The part of a spec that decides it is cut out as the job's
// "needs": jobs with equal needs fit the same workers, so that a poll looks at a handful of needs
// instead of ten thousand jobs.
#pragma once

#include <string>

#include "proto/quantd/v1/spec.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

// A JobSpec with nothing but what NeedsUnmetBy looks at, serialized deterministically: a key.
std::string NeedsKey(const v1::JobSpec& spec);

// Empty when the worker can do it; else the first thing that it lacks, as the end of "no worker
// ...": "has a cuda device", "offers method \"gptq\"".
std::string NeedsUnmetBy(const v1::JobSpec& needs, const v1::Worker& worker);

// Whether what it does occupies a GPU.
bool HasGpu(const v1::Worker& worker);

}  // namespace quantd
