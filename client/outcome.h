// What is told, and brought home, when a job or a sweep is over.
#pragma once

#include <string>
#include <vector>

#include "client/session.h"

namespace quantd {

// Metrics, failure with its remedy, the comparison if it has one, where the files lie. Returns the
// exit code.
int TellJob(Session& session, const v1::Job& job);
// The comparison of the report job, the account of every failed job, where the files lie.
int TellSweep(Session& session, const v1::Sweep& sweep);
// A variant that is through all its stages: its summary, or the account of what failed.
std::vector<std::string> TellCell(Session& session, const v1::Sweep::Cell& cell);

// Files of one job into `folder`, with progress on a terminal.
absl::Status BringHome(Session& session, const v1::Manifest& manifest, const std::string& folder,
                       const std::string& only = "");
}  // namespace quantd
