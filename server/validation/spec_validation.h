// Checks specs at submit, in one place, against what the workers announce, and fills in defaults,
// so that the stored spec says what will be done. Every violation is collected, each with its path
// in the request
// ("spec.quantize.options.bits") and, for a misspelt name, the nearest right one. Not checked here:
// what only the model tells (whether a group size divides a layer), which is the engine's part.
#pragma once

#include <string>
#include <vector>

#include "proto/errors.h"
#include "proto/quantd/v1/spec.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

struct SpecFindings {
  std::vector<FieldViolation> violations;  // Empty: the spec is good.
  std::vector<std::string> warnings;
};

// A catalog without kinds means that no worker has registered: names and options are taken as they
// come, with a warning, and the engine checks them. Resolving a resolved spec changes nothing.
// Thread-safe.
void ResolveJobSpec(const v1::Catalog& catalog, v1::JobSpec* spec, SpecFindings* findings);
// Options may be lists (one variant an element); they stay as given, because variants' names are
// made of them.
void ResolveSweepSpec(const v1::Catalog& catalog, v1::SweepSpec* spec, SpecFindings* findings);

}  // namespace quantd
