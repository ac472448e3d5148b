// quantctl top: workers and queue, redrawn on a terminal until Ctrl-C, printed once into a pipe.
#include "client/render/top.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/interrupt.h"

namespace quantd {
namespace {

constexpr int kPageMax = 1000;
// Their places and reasons cost a call each.
constexpr int kWaitingShown = 10;
constexpr absl::Duration kIntervalMin = absl::Milliseconds(200);

struct Flags {
  std::string interval = "2s";
  bool once = false;
};

absl::StatusOr<v1::ListJobsResponse> ListByState(Session& session,
                                                 std::initializer_list<v1::JobState> states) {
  v1::ListJobsRequest request;
  request.set_parent(session.parent());
  request.set_page_size(kPageMax);
  for (const v1::JobState state : states) request.add_states(state);
  return session.scheduler().Call(request);
}

absl::Status Refresh(Session& session, TopState* state) {
  Scheduler& scheduler = session.scheduler();
  QD_ASSIGN_OR_RETURN(state->serving, scheduler.Serving());
  std::vector<v1::Worker> workers;
  v1::ListWorkersRequest list;
  do {
    QD_ASSIGN_OR_RETURN(const v1::ListWorkersResponse page, scheduler.Call(list));
    workers.insert(workers.end(), page.workers().begin(), page.workers().end());
    list.set_page_token(page.next_page_token());
  } while (!list.page_token().empty());
  QD_ASSIGN_OR_RETURN(const v1::ListJobsResponse running,
                      ListByState(session, {v1::JOB_STATE_RUNNING, v1::JOB_STATE_CANCELLING}));
  QD_ASSIGN_OR_RETURN(const v1::ListJobsResponse waiting,
                      ListByState(session, {v1::JOB_STATE_QUEUED, v1::JOB_STATE_PENDING}));
  state->workers = std::move(workers);
  state->running.assign(running.jobs().begin(), running.jobs().end());
  state->version = scheduler.version();
  state->more = !waiting.next_page_token().empty();
  state->queued = state->pending = 0;
  std::vector<const v1::Job*> queued;
  for (const v1::Job& job : waiting.jobs()) {
    const bool pending = job.state() == v1::JOB_STATE_PENDING;
    ++(pending ? state->pending : state->queued);
    if (!pending) queued.push_back(&job);
  }
  // Lists are newest first; the queue moves at the other end.
  std::stable_sort(queued.begin(), queued.end(), [](const v1::Job* a, const v1::Job* b) {
    return a->create_time().seconds() < b->create_time().seconds();
  });
  state->waiting.clear();
  for (const v1::Job* job : queued) {
    if (state->waiting.size() >= kWaitingShown) break;
    v1::GetJobRequest get;
    get.set_name(job->name());
    QD_ASSIGN_OR_RETURN(state->waiting.emplace_back(), scheduler.Call(get));
  }
  std::stable_sort(
      state->waiting.begin(), state->waiting.end(),
      [](const v1::Job& a, const v1::Job& b) { return a.queue_position() < b.queue_position(); });
  return absl::OkStatus();
}

int PrintJson(Session& session, const TopState& state) {
  for (const v1::Worker& worker : state.workers) session.PrintJson("worker", worker);
  for (const v1::Job& job : state.running) session.PrintJson("running", job);
  for (const v1::Job& job : state.waiting) session.PrintJson("waiting", job);
  return kExitOk;
}

void Draw(Session& session, const TopState& state) {
  const std::vector<std::string> lines =
      TopLines(state, session.width(), session.height(), absl::Now(), session.style());
  session.out() << "\x1b[H";
  for (const std::string& line : lines) session.out() << line << "\x1b[K\n";
  session.out() << "\x1b[J";
  session.out().flush();
}

// The alternate screen, as pagers use it: what stood there before comes back.
int Watch(Session& session, absl::Duration interval, TopState state) {
  const Interrupts interrupts;
  const absl::Time end = absl::Now() + session.timeout();
  session.out() << "\x1b[?1049h\x1b[?25l";
  int exit = kExitOk;
  while (interrupts.count() == 0 && exit == kExitOk) {
    Draw(session, state);
    for (const absl::Time next = absl::Now() + interval;
         interrupts.count() == 0 && exit == kExitOk && absl::Now() < next;) {
      absl::SleepFor(absl::Milliseconds(50));
      if (absl::Now() >= end) exit = kExitTimeout;
    }
    const absl::Status status = Refresh(session, &state);
    state.trouble = status.ok() ? "" : absl::StrCat("out of date: ", status.message());
    if (!status.ok()) state.serving = false;
  }
  session.out() << "\x1b[?25h\x1b[?1049l";
  session.out().flush();
  return exit;
}

int Run(Session& session, const Flags& flags) {
  absl::Duration interval;
  if (!absl::ParseDuration(flags.interval, &interval) || interval < kIntervalMin) {
    return session.Fail(absl::InvalidArgumentError(
        absl::StrCat("--interval \"", flags.interval, "\": write 1s, 500ms or 1m, at least ",
                     absl::FormatDuration(kIntervalMin))));
  }
  TopState state;
  state.address = session.address();
  if (const absl::Status status = Refresh(session, &state); !status.ok())
    return session.Fail(status);
  if (session.json()) return PrintJson(session, state);
  if (session.terminal() && !flags.once) return Watch(session, interval, std::move(state));
  for (const std::string& line :
       TopLines(state, session.width(), 0, absl::Now(), session.style())) {
    session.out() << line << "\n";
  }
  session.out().flush();
  return kExitOk;
}

}  // namespace

Action DeclareTop(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("--interval", flags->interval, "Time between two looks")
      ->type_name("TIME")
      ->capture_default_str();
  app->add_flag("--once", flags->once, "Print one picture and stop");
  return [flags](Session& session) { return Run(session, *flags); };
}

}  // namespace quantd
