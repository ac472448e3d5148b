// Where the events of a watched job or sweep go: redrawn in place on a terminal, as lines into a
// pipe, as JSON for scripts. One thread only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/session.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/sweep.pb.h"

namespace quantd {

class View {
 public:
  virtual ~View() = default;
  virtual void Event(const v1::JobEvent& event) = 0;
  // About the watching itself: a lost connection, a way to come back.
  virtual void Notice(const std::string& text) = 0;
  // Redraws when something changed and the last picture is at least a tenth of a second old.
  virtual void Tick(absl::Time now) = 0;
  // Leaves the last picture on the screen.
  virtual void End() = 0;
};

// What is said of a cell of a sweep when its last stage has ended.
using CellLines = std::function<std::vector<std::string>(const v1::Sweep::Cell& cell)>;

// The session must outlive the view.
std::unique_ptr<View> MakeView(Session* session, const v1::Job& job);
std::unique_ptr<View> MakeView(Session* session, const v1::Sweep& sweep, CellLines tell);

}  // namespace quantd
