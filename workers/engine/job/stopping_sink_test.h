// For tests: events in memory, and a job that is cancelled when it has kept so many checkpoints.
#pragma once

#include <nlohmann/json.hpp>

#include "workers/engine/job/cancel.h"
#include "workers/engine/job/events.h"

namespace quantd::engine {

class StoppingSink : public RecordingSink {
 public:
  // `cancel` must outlive this.
  StoppingSink(int checkpoints, const CancelToken& cancel)
      : checkpoints_(checkpoints), cancel_(cancel) {}

 private:
  void Write(const nlohmann::json& event) override {
    if (event.contains("checkpoint") && --checkpoints_ == 0) cancel_.Cancel();
  }
  int checkpoints_;
  const CancelToken& cancel_;
};

}  // namespace quantd::engine
