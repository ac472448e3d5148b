// What is told, and brought home, when a job or a sweep is over.
#pragma once

#include <string>

#include "client/session.h"

namespace quantd {

// Metrics, failure with its remedy, the comparison if it has one, where the files lie. Returns the
// exit code.
int TellJob(Session& session, const v1::Job& job);
// The comparison of the report job, every failed job with its error, where the files lie.
int TellSweep(Session& session, const v1::Sweep& sweep);

// Files of one job into `folder`, with progress on a terminal.
absl::Status BringHome(Session& session, const v1::Manifest& manifest, const std::string& folder,
                       const std::string& only = "");
// Every variant's model into folder/{variant}, the report into folder.
absl::Status BringHome(Session& session, const v1::Sweep& sweep, const std::string& folder);

}  // namespace quantd
