// One queue, and three side by side over one store, under a fake clock and a bad network: messages
// are lost, doubled, late and out of order, workers crash and freeze, the scheduler restarts,
// clients cancel and retry. The model beside it knows what was promised and checks every answer; at
// the end the network heals and every job has to end. The same world with one promise broken on
// purpose (QueueFaults) has to be caught, or the simulation proves nothing.
//
// QUANTD_SIMULATION_SEEDS=N runs N seeds, QUANTD_SIMULATION_SEED=S exactly one.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "server/scheduler/errors.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/queue_testing.h"
#include "server/scheduler/transitions.h"

namespace quantd {
namespace {

constexpr int kStepsOfChaos = 250;
constexpr int kStepsToHeal = 3000;
constexpr int kJobsMax = 30;
constexpr int kWorkers = 4;

// What was promised, by the answers that the queue gave.
struct Model {
  struct Token {
    std::string job;
    int attempt = 0;
    absl::Time expires;
    bool reclaim_checked = false;
    int64_t acknowledged_events = 0;
    std::string outcome;  // Of the completion that was accepted.
    v1::JobState outcome_state = v1::JOB_STATE_UNSPECIFIED;
  };
  std::map<int64_t, Token> tokens;
  std::map<std::string, int64_t> last_token;    // By job: the last that was granted.
  std::map<std::string, int64_t> last_outcome;  // By job: the token of the last accepted outcome.
  std::map<std::string, int64_t> last_release;  // By job: of the last lease that was given back.
  int64_t greatest_token = 0;
};

QueueOptions MakeOptions(uint64_t seed, const QueueFaults& faults) {
  QueueOptions options;
  options.faults = faults;
  options.random = [random = std::make_shared<TestRandom>(seed + 1)] { return (*random)(); };
  return options;
}

class World {
 public:
  World(uint64_t seed, const QueueFaults& faults, int schedulers = 1)
      : random_(seed), t_(MakeOptions(seed, faults), schedulers) {}

  // The first broken promise; empty when all were kept.
  std::string Run();
  const QueueCounters& counters() const { return counters_; }

 private:
  struct Message {
    absl::Time at;
    int64_t number;
    std::function<void()> deliver;
    bool operator<(const Message& other) const {
      return std::tie(at, number) < std::tie(other.at, other.number);
    }
  };
  struct Worker {
    std::string id;
    int life = 1;
    bool registered = false;
    std::optional<v1::Lease> lease;
    int64_t produced = 0;
    int64_t acknowledged = 0;
    int64_t planned = 0;
    std::optional<v1::CompleteJobRequest> outcome;
    bool release = false;
    std::string poll;
    int polls = 0;
    absl::Time frozen_until = absl::InfinitePast();
    absl::Time next = absl::InfinitePast();
    std::string Instance() const { return absl::StrCat(id, "-", life); }
    void Drop() {
      lease.reset();
      outcome.reset();
      release = false;
    }
  };
  struct Submission {
    v1::SubmitJobRequest request;
    std::string job;  // Once acknowledged.
  };

  void Broken(const std::string& what) {
    if (violation_.empty()) violation_ = absl::StrCat(what, " at ", absl::FormatTime(t_.now));
  }
  // Sends over the bad network; the answer's way back is as bad: `deliver` calls Answer.
  void Send(std::function<void()> deliver);
  void Answer(std::function<void()> take);
  void DeliverUntil(absl::Time time);

  void Step(absl::Duration by);
  void ClientStep();
  void NewSubmission();
  void SendSubmission(size_t index);
  void Restart();
  void AddCountersOfAll();
  void WorkerStep(Worker* worker);
  void SendRegister(Worker* worker);
  void SendPoll(Worker* worker);
  void SendReport(Worker* worker);
  void SendOutcome(Worker* worker);
  void PlanOutcome(Worker* worker);

  void CheckGrant(const v1::LeaseJobResponse& response);
  void CheckAccepted(const v1::Lease& lease, const char* what);
  void CheckCompletion(const v1::CompleteJobRequest& request,
                       const absl::StatusOr<v1::CompleteJobResponse>& answer, absl::Time at);
  void CheckStatus(const absl::Status& status, const char* what);
  void CheckReclaimed();
  void CheckEnd();
  void CheckEvents(const v1::Job& job);
  bool AllEnded();

  TestRandom random_;
  TestQueue t_;
  Model model_;
  bool chaos_ = true;
  std::string violation_;
  std::set<Message> network_;
  int64_t messages_ = 0;
  std::vector<Worker> workers_;
  std::vector<Submission> submissions_;
  std::string sweep_;
  QueueCounters counters_;
};

void World::Send(std::function<void()> deliver) {
  const int copies = !chaos_ ? 1 : random_.OneIn(10) ? 0 : random_.OneIn(8) ? 2 : 1;
  for (int i = 0; i < copies; ++i) {
    const int64_t delay_ms = !chaos_             ? 1
                             : random_.OneIn(12) ? random_.Below(50'000)
                                                 : random_.Below(400);
    network_.insert({t_.now + absl::Milliseconds(delay_ms), ++messages_, deliver});
  }
}

void World::Answer(std::function<void()> take) { Send(std::move(take)); }

void World::DeliverUntil(absl::Time time) {
  while (!network_.empty() && network_.begin()->at <= time) {
    const Message message = *network_.begin();
    network_.erase(network_.begin());
    t_.now = std::max(t_.now, message.at);
    message.deliver();
  }
  t_.now = std::max(t_.now, time);
}

void World::Step(absl::Duration by) {
  DeliverUntil(t_.now + by);
  // Now and then the scheduler is too busy to look at its clocks.
  if (!chaos_ || !random_.OneIn(3)) {
    CheckStatus(t_.Any()->Tick(t_.now), "Tick");
    CheckReclaimed();
  }
  ClientStep();
  for (Worker& worker : workers_) WorkerStep(&worker);
  if (chaos_ && random_.OneIn(60)) Restart();
}

void World::AddCountersOfAll() {
  AddCounters(t_.queue->Counters(), &counters_);
  for (const auto& other : t_.others) AddCounters(other->Counters(), &counters_);
}

void World::Restart() {
  AddCountersOfAll();
  t_.Open();
  for (auto& [number, token] : model_.tokens) {
    if (model_.last_token[token.job] == number) token.expires = t_.now + t_.options.lease_time;
  }
}

// --- Clients.

void World::NewSubmission() {
  Submission submission;
  submission.request = QuantizeRequest(absl::StrCat("request-", submissions_.size()));
  v1::JobSpec& spec = *submission.request.mutable_spec();
  spec.set_priority(static_cast<int>(random_.Below(3)));
  if (random_.OneIn(4)) spec.mutable_limits()->mutable_run_time()->set_seconds(60);
  if (random_.OneIn(4)) spec.mutable_limits()->mutable_no_progress_time()->set_seconds(40);
  if (random_.OneIn(3))
    spec.mutable_retry()->set_max_attempts(1 + static_cast<int>(random_.Below(5)));
  for (int i = 0; i < 2 && !submissions_.empty(); ++i) {
    const Submission& other = submissions_[random_.Below(submissions_.size())];
    if (other.job.empty() || !random_.OneIn(3)) continue;
    v1::Dependency& dependency = *spec.add_dependencies();
    dependency.set_job(other.job);
    dependency.set_condition(random_.OneIn(2) ? v1::Dependency::SUCCEEDED
                                              : v1::Dependency::FINISHED);
  }
  submissions_.push_back(std::move(submission));
  SendSubmission(submissions_.size() - 1);
}

void World::SendSubmission(size_t index) {
  Send([this, index] {
    const auto answer = t_.Any()->SubmitJob(submissions_[index].request, t_.now);
    if (!answer.ok()) return CheckStatus(answer.status(), "SubmitJob");
    Answer([this, index, name = answer->job().name()] {
      std::string& job = submissions_[index].job;
      if (!job.empty() && job != name) Broken("one request id gave two jobs");
      job = name;
    });
  });
}

void World::ClientStep() {
  if (chaos_ && submissions_.size() < kJobsMax && random_.OneIn(4)) NewSubmission();
  for (size_t i = 0; i < submissions_.size(); ++i) {
    if (submissions_[i].job.empty() && random_.OneIn(3)) SendSubmission(i);
  }
  if (sweep_.empty() && random_.OneIn(20)) {
    v1::SubmitSweepRequest request;
    request.set_request_id("sweep");
    request.mutable_spec()->add_models("m");
    request.mutable_spec()->set_max_parallel(2);
    for (const char* method : {"rtn", "gptq"}) {
      request.mutable_spec()->add_variants()->set_method(method);
    }
    request.mutable_spec()->add_tasks()->set_name("perplexity");
    Send([this, request] {
      const auto answer = t_.Any()->SubmitSweep(request, t_.now);
      CheckStatus(answer.status(), "SubmitSweep");
      if (answer.ok()) Answer([this, name = answer->sweep().name()] { sweep_ = name; });
    });
  }
  if (!chaos_ || submissions_.empty()) return;
  const std::string job = submissions_[random_.Below(submissions_.size())].job;
  if (job.empty()) return;
  if (random_.OneIn(15)) {
    v1::CancelJobRequest request;
    request.set_name(job);
    Send([this, request] {
      CheckStatus(t_.Any()->CancelJob(request, t_.now).status(), "CancelJob");
    });
  }
  if (random_.OneIn(10)) {
    v1::RetryJobRequest request;
    request.set_name(job);
    Send([this, request] {
      const auto answer = t_.Any()->RetryJob(request, t_.now);
      if (!absl::IsFailedPrecondition(answer.status())) CheckStatus(answer.status(), "RetryJob");
    });
  }
  if (!sweep_.empty() && random_.OneIn(30)) {
    v1::RetrySweepRequest request;
    request.set_name(sweep_);
    Send([this, request] {
      CheckStatus(t_.Any()->RetrySweep(request, t_.now).status(), "RetrySweep");
    });
  }
}

// --- Workers.

void World::WorkerStep(Worker* worker) {
  if (chaos_ && random_.OneIn(60)) {  // Killed and started again.
    ++worker->life;
    worker->registered = false;
    worker->Drop();
    worker->poll.clear();
  }
  if (chaos_ && random_.OneIn(50)) {
    worker->frozen_until = t_.now + absl::Seconds(5 + random_.Below(100));
  }
  if (worker->frozen_until > t_.now || worker->next > t_.now) return;
  worker->next = t_.now + absl::Milliseconds(500 + random_.Below(6000));
  if (!worker->registered) return SendRegister(worker);
  if (!worker->lease.has_value()) return SendPoll(worker);
  if (worker->outcome.has_value() || worker->release) return SendOutcome(worker);
  if (worker->produced < worker->planned) {
    ++worker->produced;
    return SendReport(worker);
  }
  PlanOutcome(worker);
}

void World::SendRegister(Worker* worker) {
  v1::RegisterWorkerRequest request;
  *request.mutable_worker() = TestWorker(worker->id);
  request.set_instance_id(worker->Instance());
  Send([this, worker, request] {
    const auto answer = t_.Any()->RegisterWorker(request, t_.now);
    if (ReasonOf(answer.status()) == kReasonInstanceReplaced)
      return;  // A message of an earlier life.
    CheckStatus(answer.status(), "RegisterWorker");
    Answer([worker, instance = request.instance_id()] {
      if (worker->Instance() == instance) worker->registered = true;
    });
  });
}

void World::SendPoll(Worker* worker) {
  if (worker->poll.empty() || random_.OneIn(5))
    worker->poll = absl::StrCat("poll-", ++worker->polls);
  v1::LeaseJobRequest request;
  request.set_worker("workers/" + worker->id);
  request.set_instance_id(worker->Instance());
  request.set_request_id(worker->poll);
  Send([this, worker, request] {
    const auto answer = t_.Any()->LeaseJob(request, t_.now);
    const std::string reason = ReasonOf(answer.status());
    if (reason.empty()) CheckStatus(answer.status(), "LeaseJob");
    if (answer.ok() && answer->has_lease()) CheckGrant(*answer);
    Answer([this, worker, request, answer, reason] {
      if (worker->Instance() != request.instance_id()) return;
      if (reason == kReasonWorkerUnknown) worker->registered = false;
      if (!answer.ok() || worker->lease.has_value() || worker->poll != request.request_id()) return;
      worker->poll.clear();
      if (!answer->has_lease()) return;
      worker->lease = answer->lease();
      worker->produced = worker->acknowledged = 0;
      worker->planned = random_.Below(7);
    });
  });
}

void World::SendReport(Worker* worker) {
  v1::ReportJobRequest request;
  *request.mutable_lease() = *worker->lease;
  request.set_first_event(worker->acknowledged + 1);
  for (int64_t number = worker->acknowledged + 1; number <= worker->produced; ++number) {
    v1::JobEvent& event = *request.add_events();
    event.mutable_progress()->set_done(number);
    event.mutable_progress()->set_total(worker->lease->fencing_token());  // Whose event it is.
  }
  Send([this, worker, request] {
    const auto answer = t_.Any()->ReportJob(request, t_.now);
    const int64_t token = request.lease().fencing_token();
    if (answer.ok()) {
      CheckAccepted(request.lease(), "a report");
      Model::Token& known = model_.tokens[token];
      known.expires = t_.now + t_.options.lease_time;
      known.acknowledged_events = std::max(known.acknowledged_events, answer->accepted_events());
    } else if (ReasonOf(answer.status()) != kReasonLeaseLost) {
      CheckStatus(answer.status(), "ReportJob");
    }
    Answer([this, worker, token, answer] {
      if (!worker->lease.has_value() || worker->lease->fencing_token() != token) return;
      if (!answer.ok()) return worker->Drop();
      worker->acknowledged = std::max(worker->acknowledged, answer->accepted_events());
      if (answer->cancel_requested() && !worker->outcome.has_value() && !random_.OneIn(4)) {
        worker->outcome.emplace().mutable_cancelled();
      }
    });
  });
}

void World::PlanOutcome(Worker* worker) {
  const int64_t dice = random_.Below(20);
  if (dice == 0) {
    worker->release = true;
    return;
  }
  v1::CompleteJobRequest& outcome = worker->outcome.emplace();
  if (dice < 14) {
    outcome.mutable_success()->mutable_output()->set_sha256(
        absl::StrCat("output of token ", worker->lease->fencing_token()));
    return;
  }
  constexpr v1::ErrorClass kClasses[] = {
      v1::ERROR_CLASS_INPUT_UNAVAILABLE, v1::ERROR_CLASS_ENGINE_CRASH,
      v1::ERROR_CLASS_PREEMPTED,         v1::ERROR_CLASS_OUT_OF_MEMORY,
      v1::ERROR_CLASS_INTERNAL,          v1::ERROR_CLASS_DEVICE_FAULT};
  outcome.mutable_failure()->set_error_class(kClasses[dice - 14]);
}

void World::SendOutcome(Worker* worker) {
  if (worker->release) {
    v1::ReleaseJobRequest request;
    *request.mutable_lease() = *worker->lease;
    request.set_reason("draining");
    Send([this, worker, request] {
      const auto answer = t_.Any()->ReleaseJob(request, t_.now);
      if (ReasonOf(answer.status()) != kReasonLeaseLost) CheckStatus(answer.status(), "ReleaseJob");
      if (answer.ok()) {
        int64_t& last = model_.last_release[request.lease().job()];
        last = std::max<int64_t>(last, request.lease().fencing_token());
      }
      Answer([worker, token = request.lease().fencing_token()] {
        if (worker->lease.has_value() && worker->lease->fencing_token() == token) worker->Drop();
      });
    });
    return;
  }
  v1::CompleteJobRequest request = *worker->outcome;
  *request.mutable_lease() = *worker->lease;
  Send([this, worker, request] {
    const auto answer = t_.Any()->CompleteJob(request, t_.now);
    CheckCompletion(request, answer, t_.now);
    Answer([worker, token = request.lease().fencing_token()] {
      if (worker->lease.has_value() && worker->lease->fencing_token() == token) worker->Drop();
    });
  });
}

// --- Promises.

void World::CheckStatus(const absl::Status& status, const char* what) {
  if (!status.ok()) Broken(absl::StrCat(what, " failed: ", status.ToString()));
}

void World::CheckGrant(const v1::LeaseJobResponse& response) {
  const v1::Lease& lease = response.lease();
  const int64_t token = lease.fencing_token();
  const auto known = model_.tokens.find(token);
  if (known != model_.tokens.end() && known->second.job == lease.job() &&
      known->second.attempt == lease.attempt()) {
    return;  // The same lease again.
  }
  if (token <= model_.greatest_token) Broken("a fencing token did not grow");
  model_.greatest_token = std::max(model_.greatest_token, token);
  model_.tokens[token] = {.job = lease.job(),
                          .attempt = lease.attempt(),
                          .expires = t_.now + t_.options.lease_time,
                          .reclaim_checked = false,
                          .acknowledged_events = 0,
                          .outcome = "",
                          .outcome_state = v1::JOB_STATE_UNSPECIFIED};
  model_.last_token[lease.job()] = token;
  for (const v1::Dependency& dependency : response.spec().dependencies()) {
    const std::string name = dependency.job().substr(0, 5) == "jobs/"
                                 ? "tenants/default/" + dependency.job()
                                 : dependency.job();
    const v1::JobState state = t_.State(name);
    // A finished dependency may run again after a retry; a needed one cannot once it succeeded.
    if (dependency.condition() != v1::Dependency::FINISHED && state != v1::JOB_STATE_SUCCEEDED) {
      Broken("a job was leased before what it needs succeeded");
    }
  }
  v1::ListJobsRequest running;
  running.set_sweep(sweep_);
  running.add_states(v1::JOB_STATE_RUNNING);
  if (!sweep_.empty() && t_.Any()->ListJobs(running, t_.now)->jobs_size() > 2) {
    Broken("a sweep ran more than max_parallel jobs");
  }
}

void World::CheckAccepted(const v1::Lease& lease, const char* what) {
  const auto token = model_.tokens.find(lease.fencing_token());
  if (token == model_.tokens.end())
    return Broken(absl::StrCat(what, " with an unknown token passed"));
  if (model_.last_token[lease.job()] != lease.fencing_token()) {
    Broken(absl::StrCat(what, " with an old token passed the fence"));
  }
  if (t_.now >= token->second.expires) Broken(absl::StrCat(what, " passed after the lease's end"));
}

void World::CheckCompletion(const v1::CompleteJobRequest& request,
                            const absl::StatusOr<v1::CompleteJobResponse>& answer, absl::Time) {
  v1::CompleteJobRequest body = request;
  body.clear_lease();
  const std::string outcome = body.SerializeAsString();
  const int64_t number = request.lease().fencing_token();
  Model::Token& token = model_.tokens[number];
  if (!token.outcome.empty()) {
    // Promised as long as no later attempt's outcome, a release included, took its place.
    const bool still_known =
        model_.last_outcome[token.job] == number && model_.last_release[token.job] <= number;
    if (token.outcome == outcome && still_known && !answer.ok()) {
      Broken("a repeated completion was refused");
    }
    if (token.outcome == outcome && answer.ok() && answer->state() != token.outcome_state) {
      Broken("a repeated completion was answered differently");
    }
    if (token.outcome != outcome && answer.ok())
      Broken("two outcomes of one attempt were accepted");
    return;
  }
  if (!answer.ok()) {
    const bool cancel_refused =
        request.has_cancelled() && absl::IsFailedPrecondition(answer.status());
    if (ReasonOf(answer.status()) != kReasonLeaseLost && !cancel_refused) {
      CheckStatus(answer.status(), "CompleteJob");
    }
    return;
  }
  CheckAccepted(request.lease(), "a completion");
  token.outcome = outcome;
  token.outcome_state = answer->state();
  model_.last_outcome[token.job] = number;
}

void World::CheckReclaimed() {
  for (auto& [number, token] : model_.tokens) {
    if (token.reclaim_checked || token.expires > t_.now) continue;
    token.reclaim_checked = true;
    const v1::Job job = t_.Get(token.job);
    if (IsLeased(job.state()) && job.attempt() == token.attempt) {
      Broken("an expired lease was not reclaimed");
    }
  }
}

void World::CheckEvents(const v1::Job& job) {
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  std::map<int, int64_t> numbers;  // By attempt: events of its worker so far.
  int64_t sequence = 0;
  absl::Time time = absl::InfinitePast();
  for (const v1::JobEvent& event : t_.Events(job.name())) {
    if (event.sequence() != ++sequence) return Broken("event sequences have a gap");
    const absl::Time at = absl::FromUnixSeconds(event.time().seconds());
    if (at < time) Broken("a job's time went back");
    time = at;
    if (event.has_state()) {
      const v1::JobState next = event.state().state();
      bool possible = state == v1::JOB_STATE_UNSPECIFIED;
      for (int command = 0; command < kJobCommandCount; ++command) {
        const auto to = NextState(state, static_cast<JobCommand>(command));
        possible = possible || (to.ok() && *to == next && next != state);
      }
      if (!possible) {
        Broken(absl::StrCat(job.name(), " went from ", StateWord(state), " to ", StateWord(next)));
      }
      state = next;
    }
    if (event.has_progress()) {
      if (event.progress().done() != ++numbers[event.attempt()]) {
        Broken("a worker's events were lost, doubled or reordered");
      }
      const auto token = model_.tokens.find(event.progress().total());
      if (token == model_.tokens.end() || token->second.attempt != event.attempt() ||
          token->second.job != job.name()) {
        Broken("an event of one attempt is stored under another");
      }
    }
  }
  if (state != job.state()) Broken("the record and the last event disagree");
  if (sequence != job.last_sequence()) Broken("last_sequence is not the last event's");
  for (const auto& [number, token] : model_.tokens) {
    if (token.job == job.name() && numbers[token.attempt] < token.acknowledged_events) {
      Broken("acknowledged events are missing");
    }
  }
  if (job.state() == v1::JOB_STATE_SUCCEEDED) {
    const int64_t last = model_.last_outcome[job.name()];
    if (job.output().sha256() != absl::StrCat("output of token ", last) ||
        last != model_.last_token[job.name()]) {
      Broken("the result is not the last granted lease's");
    }
  }
}

bool World::AllEnded() {
  const auto statistics = t_.Any()->Statistics(t_.now);
  int64_t unended = 0;
  for (int state = v1::JOB_STATE_PENDING; state < v1::JOB_STATE_SUCCEEDED; ++state) {
    unended += statistics->JobsIn(static_cast<v1::JobState>(state));
  }
  const bool all_sent = std::none_of(submissions_.begin(), submissions_.end(),
                                     [](const Submission& s) { return s.job.empty(); });
  return unended == 0 && all_sent && !sweep_.empty();
}

void World::CheckEnd() {
  if (!AllEnded()) Broken("jobs did not end although the network healed");
  for (const Submission& submission : submissions_) {
    v1::GetJobRequest request;
    request.set_name(submission.job);
    const auto job = t_.Any()->GetJob(request, t_.now);
    if (!job.ok()) {
      Broken(absl::StrCat("an acknowledged job is lost: ", job.status().ToString()));
    } else {
      CheckEvents(*job);
    }
  }
  if (sweep_.empty()) return;
  v1::GetSweepRequest request;
  request.set_name(sweep_);
  const auto sweep = t_.Any()->GetSweep(request);
  if (!sweep.ok() || sweep->state() == v1::JOB_STATE_RUNNING) {
    return Broken("the sweep did not end with its jobs");
  }
  for (const v1::Sweep::Cell& cell : sweep->cells()) {
    for (const v1::Sweep::Stage& stage : cell.stages()) CheckEvents(t_.Get(stage.job()));
  }
  CheckEvents(t_.Get(sweep->report_job()));
}

std::string World::Run() {
  for (int i = 0; i < kWorkers; ++i) workers_.emplace_back().id = absl::StrCat("w", i);
  for (int i = 0; i < kStepsOfChaos && violation_.empty(); ++i) {
    Step(absl::Milliseconds(100 + random_.Below(4000)));
  }
  chaos_ = false;
  for (int i = 0; i < kStepsToHeal && violation_.empty() && !AllEnded(); ++i) {
    Step(absl::Seconds(random_.OneIn(20) ? 60 : 3));
  }
  // Late messages still come, after the end.
  DeliverUntil(t_.now + absl::Minutes(2));
  if (violation_.empty()) CheckEnd();
  AddCountersOfAll();
  return violation_;
}

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : atoll(text);
}

class Simulation : public ::testing::TestWithParam<int> {};

TEST_P(Simulation, EveryPromiseIsKept) {
  const int64_t only = FromEnvironment("QUANTD_SIMULATION_SEED", 0);
  const int64_t seeds = only != 0 ? 1 : FromEnvironment("QUANTD_SIMULATION_SEEDS", 12);
  QueueCounters sum;
  for (int64_t i = 1; i <= seeds; ++i) {
    const uint64_t seed = only != 0 ? only : i;
    World world(seed, {}, GetParam());
    const std::string violation = world.Run();
    EXPECT_EQ(violation, "") << "QUANTD_SIMULATION_SEED=" << seed << " shows it";
    AddCounters(world.counters(), &sum);
  }
  printf(
      "%lld seeds: %lld leases, %lld expired, %lld fenced writes, %lld replayed submits, "
      "%lld repeated completions\n",
      static_cast<long long>(seeds), static_cast<long long>(sum.leases_granted),
      static_cast<long long>(sum.lease_expirations), static_cast<long long>(sum.fenced_writes),
      static_cast<long long>(sum.idempotent_replays),
      static_cast<long long>(sum.repeated_completions));
  if (seeds < 5) return;
  // The chaos has to reach the corners, or it shows nothing.
  EXPECT_GT(sum.lease_expirations, 0);
  EXPECT_GT(sum.fenced_writes, 0);
  EXPECT_GT(sum.idempotent_replays, 0);
  EXPECT_GT(sum.repeated_completions, 0);
  EXPECT_EQ(sum.duplicate_completions, 0);
}

INSTANTIATE_TEST_SUITE_P(Schedulers, Simulation, ::testing::Values(1, 3),
                         ::testing::PrintToStringParamName());

struct BrokenVariant {
  const char* name;
  bool QueueFaults::*fault;
};

class BrokenQueue : public ::testing::TestWithParam<BrokenVariant> {};

TEST_P(BrokenQueue, IsCaught) {
  constexpr int kSeedsToCatchIt = 10;
  QueueFaults faults;
  faults.*GetParam().fault = true;
  for (uint64_t seed = 1; seed <= kSeedsToCatchIt; ++seed) {
    const std::string violation = World(seed, faults).Run();
    if (violation.empty()) continue;
    printf("seed %d: %s\n", static_cast<int>(seed), violation.c_str());
    return;
  }
  FAIL() << kSeedsToCatchIt << " seeds did not notice " << GetParam().name;
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenQueue,
    ::testing::Values(BrokenVariant{"ignore_fence", &QueueFaults::ignore_fence},
                      BrokenVariant{"renew_after_expiry", &QueueFaults::renew_after_expiry},
                      BrokenVariant{"never_reclaim", &QueueFaults::never_reclaim},
                      BrokenVariant{"complete_twice", &QueueFaults::complete_twice},
                      BrokenVariant{"skip_event_dedup", &QueueFaults::skip_event_dedup},
                      BrokenVariant{"forget_dependents", &QueueFaults::forget_dependents},
                      BrokenVariant{"reuse_fencing_token", &QueueFaults::reuse_fencing_token},
                      BrokenVariant{"skip_state_events", &QueueFaults::skip_state_events}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quantd
