// A head line, a table of workers, a table of what waits; rows that do not fit are counted.
#include "client/render/top.h"

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "client/render/board.h"

namespace quantd {
namespace {

std::string Id(const std::string& name) { return name.substr(name.rfind('/') + 1); }

std::string KindOf(const v1::JobSpec& spec) {
  const auto* oneof = spec.GetDescriptor()->FindOneofByName("kind");
  const auto* field = spec.GetReflection()->GetOneofFieldDescriptor(spec, oneof);
  return field == nullptr ? "" : field->name();
}

std::string Title(const v1::Job& job) {
  return job.spec().display_name().empty() ? Id(job.name()) : job.spec().display_name();
}

std::string DeviceOf(const v1::Worker& worker) {
  for (const v1::Device& device : worker.catalog().devices()) {
    if (device.type() != "cpu") {
      return absl::StrCat(device.name(), " ", FormatBytes(device.memory_bytes()));
    }
  }
  return "cpu";
}

std::vector<std::string> WorkerTable(const TopState& state, size_t width, absl::Time now,
                                     const Style& style) {
  std::map<std::string, const v1::Job*> by_worker;
  for (const v1::Job& job : state.running) by_worker[job.worker()] = &job;
  Table table({{"worker"},
               {"state"},
               {"device", Align::kLeft, 3},
               {"kind", Align::kLeft, 4},
               {"job", Align::kLeft, 1},
               {"progress", Align::kLeft, 2},
               {"seen", Align::kRight, 5}});
  for (const v1::Worker& worker : state.workers) {
    const auto found = by_worker.find(worker.name());
    const v1::Job* job = found == by_worker.end() ? nullptr : found->second;
    const absl::Time seen = absl::FromUnixSeconds(worker.last_seen_time().seconds());
    table.AddRow({Id(worker.name()), absl::AsciiStrToLower(v1::Worker::State_Name(worker.state())),
                  DeviceOf(worker), job == nullptr ? "" : KindOf(job->spec()),
                  job == nullptr ? Id(worker.job()) : Title(*job),
                  job == nullptr ? "" : ProgressText(job->progress()),
                  absl::StrCat(ShortDuration(now - seen), " ago")});
  }
  return table.Render(width, style);
}

std::vector<std::string> WaitingTable(const TopState& state, size_t width, absl::Time now,
                                      const Style& style) {
  Table table({{"waiting"},
               {"place", Align::kRight, 3},
               {"kind", Align::kLeft, 4},
               {"since", Align::kRight, 2},
               {"why", Align::kLeft, 1}});
  for (const v1::Job& job : state.waiting) {
    table.AddRow({Title(job), job.queue_position() > 0 ? absl::StrCat(job.queue_position()) : "",
                  KindOf(job.spec()),
                  ShortDuration(now - absl::FromUnixSeconds(job.create_time().seconds())),
                  job.waiting_reason()});
  }
  return table.Render(width, style);
}

// At most `room` lines of `table`, its header among them; the last one counts what is left out.
void AddTable(std::vector<std::string> table, size_t room, std::vector<std::string>* lines) {
  if (table.size() > room && room > 1) {
    const size_t hidden = table.size() - room + 1;
    table.resize(room - 1);
    table.push_back(absl::StrCat("(", hidden, " more)"));
  }
  lines->insert(lines->end(), table.begin(), table.end());
}

}  // namespace

std::vector<std::string> TopLines(const TopState& state, size_t width, size_t height,
                                  absl::Time now, const Style& style) {
  std::map<v1::Worker::State, int> counts;
  for (const v1::Worker& worker : state.workers) ++counts[worker.state()];
  const std::string head = absl::StrCat(
      "quantd ", state.address, "  ", OneLine(state.version), "  ",
      state.serving ? "serving" : "not serving", "  workers: ", counts[v1::Worker::IDLE], " idle, ",
      counts[v1::Worker::BUSY], " busy, ", counts[v1::Worker::DRAINING], " draining, ",
      counts[v1::Worker::LOST], " lost  jobs: ", state.running.size(), " running, ", state.queued,
      state.more ? "+" : "", " queued, ", state.pending, state.more ? "+" : "", " pending");
  std::vector<std::string> lines = {style.Bold(width > 0 ? Clip(head, width) : head)};
  if (!state.trouble.empty()) {
    const std::string trouble = OneLine(state.trouble);
    lines.push_back(style.Bad(width > 0 ? Clip(trouble, width) : trouble));
  }
  // The workers may take two thirds of the screen, what waits the rest.
  const size_t room = height == 0 ? SIZE_MAX : std::max<size_t>(height, 6) - lines.size();
  if (state.workers.empty()) {
    lines.push_back("no workers; start one with: quant-worker --scheduler " + state.address);
  } else {
    AddTable(WorkerTable(state, width, now, style),
             height == 0             ? SIZE_MAX
             : state.waiting.empty() ? room
                                     : room * 2 / 3,
             &lines);
  }
  if (!state.waiting.empty()) {
    const size_t used = lines.size();
    AddTable(WaitingTable(state, width, now, style),
             height == 0 ? SIZE_MAX : std::max<size_t>(height, used + 2) - used, &lines);
  }
  return lines;
}

}  // namespace quantd
