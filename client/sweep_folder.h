// A sweep's results as a predictable tree of files on this machine.
#pragma once

#include <string>

#include "client/session.h"

namespace quantd {

// models/{variant}/            the model, where one was written
// metrics/{variant}.json       every stage's job, state, and result or failure; "metrics" in front
// samples/{variant}/           what the evaluation left, sample by sample
// comparisons/{variant}.json   the variant held against its baseline
// report.md, report.html, report.json, summary.csv
// A sweep of several models has one level more: models/{model}/{variant}/. What is there already
// and whole is left alone.
absl::Status BringHome(Session& session, const v1::Sweep& sweep, const std::string& folder);

}  // namespace quantd
