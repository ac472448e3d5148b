// What is known about jobs that are being watched, folded from their events, and how it looks: as
// lines to be redrawn on a terminal, and as lines that are printed once. Pure functions of the
// events and the time: the golden tests call them.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/render/table.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/sweep.pb.h"

namespace quantd {

// "running", "succeeded": the enum's word.
std::string StateWord(v1::JobState state);
// The same, in its colour.
std::string StatePaint(v1::JobState state, const Style& style);
bool IsEnded(v1::JobState state);
// "quantize 12/32 block, 3.1/s, 6s left".
std::string ProgressText(const v1::Progress& progress);

// One job.
struct JobBoard {
  explicit JobBoard(std::string title = "") : title(std::move(title)) {}
  void Apply(const v1::JobEvent& event);
  // State and bar: two lines while it runs, one otherwise.
  std::vector<std::string> Lines(size_t width, const Style& style) const;
  // Done share of the phase in 0..1; negative when not known.
  double Share() const;

  std::string title;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  std::string worker;
  std::string reason;
  int attempt = 0;
  v1::Progress progress;
  // In the order of arrival, the last value of each; without labels.
  std::vector<std::pair<std::string, double>> metrics;
};

// One sweep: a row per cell, a column per stage.
class SweepBoard {
 public:
  explicit SweepBoard(const v1::Sweep& sweep);
  void Apply(const v1::JobEvent& event);
  // `height` 0: no limit. Rows that do not fit are counted in the last line.
  std::vector<std::string> Lines(size_t width, size_t height, absl::Duration elapsed,
                                 const Style& style) const;
  // "gptq-b4-g128 quantize" for a job's full name.
  std::string TitleOf(const std::string& job) const;
  // Whether a job compares a variant with its baseline: no column shows it.
  bool IsComparison(const std::string& job) const { return comparisons_.count(job) > 0; }
  // The variant whose last stage ended with this event, else null.
  const v1::Sweep::Cell* CellEndedBy(const v1::JobEvent& event) const;

 private:
  struct Row {
    std::string name;
    // By the columns of kinds_; empty: the cell has no such stage.
    std::vector<std::string> jobs;
  };
  std::string CellText(const std::string& job) const;

  std::string name_;
  std::vector<std::string> kinds_;
  std::vector<Row> rows_;
  std::map<std::string, JobBoard> jobs_;
  std::set<std::string> comparisons_;
  std::map<std::string, v1::Sweep::Cell> last_stages_;  // By the job of the variant's last stage.
};

// Events as lines for a pipe: state changes, phases, every tenth of a phase, metrics, fallbacks,
// failures.
class Transcript {
 public:
  // `live`: a bar shows the progress, so that no line has to.
  explicit Transcript(bool live = false) : live_(live) {}
  // `title` stands before each line; empty: none.
  std::vector<std::string> Lines(const v1::JobEvent& event, const std::string& title,
                                 const Style& style);

 private:
  struct Phase {
    std::string name;
    int tenth = -1;
  };
  const bool live_;
  std::map<std::string, Phase> phases_;  // By job.
};

}  // namespace quantd
