// The picture of `quantctl top`: workers with what they do, and what waits. A pure function of what
// the scheduler said and the time.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/render/table.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

struct TopState {
  std::string address;
  std::string version;
  bool serving = false;
  std::string trouble;  // Why the rest is old, or empty.
  std::vector<v1::Worker> workers;
  std::vector<v1::Job> running;
  // The first of the queue, with place and reason.
  std::vector<v1::Job> waiting;
  int queued = 0;
  int pending = 0;
  bool more = false;  // At least so many wait; they were not all counted.
};

// `width` and `height` 0: no limit.
std::vector<std::string> TopLines(const TopState& state, size_t width, size_t height,
                                  absl::Time now, const Style& style);

}  // namespace quantd
