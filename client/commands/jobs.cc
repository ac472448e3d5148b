// quantctl jobs: the queue and its history.
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/follow.h"
#include "client/outcome.h"
#include "client/render/board.h"
#include "client/submit.h"
#include "proto/yaml.h"

namespace quantd {
namespace {

std::string KindOf(const v1::JobSpec& spec) {
  const auto* oneof = spec.GetDescriptor()->FindOneofByName("kind");
  const auto* field = spec.GetReflection()->GetOneofFieldDescriptor(spec, oneof);
  return field == nullptr ? "" : field->name();
}

std::string Age(const google::protobuf::Timestamp& time) {
  return ShortDuration(absl::Now() - absl::FromUnixSeconds(time.seconds()));
}

absl::StatusOr<v1::Job> Get(Session& session, const std::string& text) {
  v1::GetJobRequest request;
  QD_ASSIGN_OR_RETURN(*request.mutable_name(), session.JobName(text));
  return session.scheduler().Call(request);
}

absl::StatusOr<v1::JobState> ParseState(const std::string& word) {
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  if (v1::JobState_Parse(absl::StrCat("JOB_STATE_", absl::AsciiStrToUpper(word)), &state))
    return state;
  return absl::InvalidArgumentError(absl::StrCat(
      "--state \"", word,
      "\": write pending, queued, running, cancelling, succeeded, failed, cancelled or skipped"));
}

struct ListFlags {
  std::vector<std::string> states, labels;
  std::string sweep;
  int limit = 50;
};

absl::StatusOr<v1::ListJobsRequest> ListRequest(const Session& session, const ListFlags& flags) {
  v1::ListJobsRequest request;
  request.set_parent(session.parent());
  for (const std::string& word : flags.states) {
    QD_ASSIGN_OR_RETURN(const v1::JobState state, ParseState(word));
    request.add_states(state);
  }
  for (const std::string& label : flags.labels) {
    const std::vector<std::string> parts = absl::StrSplit(label, absl::MaxSplits('=', 1));
    (*request.mutable_labels())[parts[0]] = parts.size() == 2 ? parts[1] : "";
  }
  if (!flags.sweep.empty()) {
    QD_ASSIGN_OR_RETURN(*request.mutable_sweep(), session.SweepName(flags.sweep));
  }
  return request;
}

int List(Session& session, const ListFlags& flags) {
  absl::StatusOr<v1::ListJobsRequest> request = ListRequest(session, flags);
  if (!request.ok()) return session.Fail(request.status());
  Table table({{"job"},
               {"kind", Align::kLeft, 2},
               {"state"},
               {"progress", Align::kLeft, 4},
               {"place", Align::kRight, 6},
               {"age", Align::kRight, 3},
               {"name", Align::kLeft, 5},
               {"waits because", Align::kLeft, 7}});
  int left = flags.limit;
  bool more = false;
  do {
    request->set_page_size(std::min(left, 1000));
    const absl::StatusOr<v1::ListJobsResponse> page = session.scheduler().Call(*request);
    if (!page.ok()) return session.Fail(page.status());
    for (const v1::Job& job : page->jobs()) {
      if (left-- <= 0) break;
      if (session.json()) {
        session.PrintJson("job", job);
        continue;
      }
      table.AddRow({job.name().substr(job.name().rfind('/') + 1), KindOf(job.spec()),
                    StateWord(job.state()),
                    IsEnded(job.state()) ? "" : ProgressText(job.progress()),
                    job.queue_position() > 0 ? absl::StrCat(job.queue_position()) : "",
                    Age(job.create_time()), job.spec().display_name(), job.waiting_reason()});
    }
    request->set_page_token(page->next_page_token());
    more = !page->next_page_token().empty();
  } while (left > 0 && more);
  if (!session.json()) session.PrintTable(table);
  if (more && !session.json()) session.out() << "(more: --limit N)\n";
  return kExitOk;
}

struct LogFlags {
  std::string job;
  bool follow = false;
};

class LogView : public View {
 public:
  explicit LogView(Session* session) : session_(session) {}
  void Event(const v1::JobEvent& event) override {
    if (!event.has_log()) return;
    if (session_->json()) return session_->PrintJson("event", event);
    session_->out() << OneLine(event.log().text()) << "\n";
  }
  void Notice(const std::string& text) override { session_->err() << text << std::endl; }
  void Tick(absl::Time) override { session_->out().flush(); }
  void End() override { session_->out().flush(); }

 private:
  Session* session_;
};

int Logs(Session& session, const LogFlags& flags) {
  const absl::StatusOr<v1::Job> job = Get(session, flags.job);
  if (!job.ok()) return session.Fail(job.status());
  FollowRequest follow;
  follow.name = job->name();
  follow.kinds = {"log"};
  follow.snapshot = !flags.follow;
  LogView view(&session);
  const absl::StatusOr<FollowEnd> end = Follow(&session, follow, &view);
  if (!end.ok()) return session.Fail(end.status());
  return *end == FollowEnd::kEnded      ? kExitOk
         : *end == FollowEnd::kTimedOut ? kExitTimeout
                                        : kExitDetached;
}

struct OneJob {
  std::string job;
  std::string output;
  bool detach = false;
};

}  // namespace

Action DeclareJobsList(CLI::App* app) {
  const auto flags = std::make_shared<ListFlags>();
  app->add_option("--state", flags->states, "Only jobs in this state; may be repeated")
      ->allow_extra_args(false);
  app->add_option("--label", flags->labels, "Only jobs with this label")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  app->add_option("--sweep", flags->sweep, "Only jobs of this sweep");
  app->add_option("--limit", flags->limit, "At most this many (default 50)")
      ->check(CLI::PositiveNumber);
  return [flags](Session& session) { return List(session, *flags); };
}

Action DeclareJobsGet(CLI::App* app) {
  const auto flags = std::make_shared<OneJob>();
  app->add_option("JOB", flags->job, "Job")->required();
  return [flags](Session& session) {
    const absl::StatusOr<v1::Job> job = Get(session, flags->job);
    if (!job.ok()) return session.Fail(job.status());
    if (session.json()) {
      session.PrintJson("", *job);
    } else {
      session.out() << MessageToYaml(*job);
    }
    return static_cast<int>(kExitOk);
  };
}

Action DeclareJobsWatch(CLI::App* app) {
  const auto flags = std::make_shared<OneJob>();
  app->add_option("JOB", flags->job, "Job")->required();
  app->add_option("-o,--output", flags->output, "Bring the results into this folder")
      ->type_name("DIR");
  return [flags](Session& session) {
    const absl::StatusOr<v1::Job> job = Get(session, flags->job);
    return job.ok() ? WatchToTheEnd(session, *job, {0, flags->output}) : session.Fail(job.status());
  };
}

Action DeclareJobsLogs(CLI::App* app) {
  const auto flags = std::make_shared<LogFlags>();
  app->add_option("JOB", flags->job, "Job")->required();
  app->add_flag("--follow", flags->follow, "Go on until the job ends");
  return [flags](Session& session) { return Logs(session, *flags); };
}

Action DeclareJobsCancel(CLI::App* app) {
  const auto jobs = std::make_shared<std::vector<std::string>>();
  const auto reason = std::make_shared<std::string>();
  app->add_option("JOB", *jobs, "Jobs")->required();
  app->add_option("--reason", *reason, "Kept with the job");
  return [jobs, reason](Session& session) {
    for (const std::string& text : *jobs) {
      const absl::StatusOr<std::string> name = session.JobName(text);
      if (!name.ok()) return session.Fail(name.status());
      v1::CancelJobRequest request;
      request.set_name(*name);
      request.set_reason(*reason);
      const absl::StatusOr<v1::Job> job = session.scheduler().Call(request);
      if (!job.ok()) return session.Fail(job.status());
      if (session.json()) {
        session.PrintJson("job", *job);
      } else {
        session.out() << ShortName(job->name()) << " " << StateWord(job->state()) << "\n";
      }
    }
    return static_cast<int>(kExitOk);
  };
}

Action DeclareJobsRetry(CLI::App* app) {
  const auto flags = std::make_shared<OneJob>();
  app->add_option("JOB", flags->job, "Job")->required();
  app->add_flag("-d,--detach", flags->detach, "Do not watch");
  return [flags](Session& session) {
    const absl::StatusOr<v1::Job> before = Get(session, flags->job);
    if (!before.ok()) return session.Fail(before.status());
    v1::RetryJobRequest request;
    request.set_name(before->name());
    const absl::StatusOr<v1::Job> job = session.scheduler().Call(request);
    if (!job.ok()) return session.Fail(job.status());
    if (session.json()) {
      session.PrintJson("job", *job);
    } else {
      session.out() << ShortName(job->name()) << " " << StateWord(job->state()) << "\n";
    }
    // What happened before the retry has been seen.
    return flags->detach ? static_cast<int>(kExitOk)
                         : WatchToTheEnd(session, *job, {before->last_sequence(), ""});
  };
}

}  // namespace quantd
