// Lease, cancel and complete as a model small enough to look at every state of it: two workers and
// two jobs, of which the second may need the first; answers get lost, late messages come, workers
// die and come back, the scheduler restarts, at any point. It decides nothing itself: the next
// state comes from the table in transitions.h, a retry from DecideRetry, the fence from
// WhyLeaseIsOver, as in the queue. Random walks through model and queue together show that the
// model is the queue's; broken variants (QueueFaults) show that it would notice.
//
// QUANTD_MODEL_FULL=1 looks at two jobs side by side, too (minutes); QUANTD_MODEL_WALKS=N walks N
// times.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "server/scheduler/errors.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/queue_testing.h"
#include "server/scheduler/transitions.h"

namespace quantd {
namespace {

constexpr int kJobs = 2;
constexpr int kWorkers = 2;
constexpr int kMaxAttempts = 2;
constexpr int kNobody = kWorkers;

// What an attempt was ended with by its worker.
enum Outcome : uint8_t { kNothing, kSuccess, kFailure, kStopped, kGivenBack };

struct ModelJob {
  uint8_t state = v1::JOB_STATE_QUEUED;
  uint8_t token = 0;
  uint8_t holder = kNobody;
  bool overdue = false;   // The lease's time is over.
  bool reported = false;  // The worker has shown that it knows of the lease.
  uint8_t counted = 0;    // Attempts used up.
  uint8_t outcome_token = 0;
  uint8_t outcome = kNothing;
  uint8_t successes = 0;  // Accepted since it was last put into the queue.
};

// A lease as somebody knows it: a worker, or a message of his that is still on its way.
struct Known {
  uint8_t job = kJobs;  // kJobs: none.
  uint8_t token = 0;
};

struct ModelState {
  std::array<ModelJob, kJobs> jobs;
  std::array<Known, kWorkers> believes;
  std::array<Known, kWorkers> late;
  std::array<bool, kWorkers> dead{};

  // Tokens are compared and never counted: their order is all that a state holds of them.
  void Normalize() {
    for (uint8_t job = 0; job < kJobs; ++job) {
      std::vector<uint8_t*> tokens = {&jobs[job].token, &jobs[job].outcome_token};
      for (auto* known : {&believes, &late}) {
        for (Known& one : *known) {
          if (one.job == job) tokens.push_back(&one.token);
        }
      }
      std::vector<uint8_t> sorted = {0};
      for (const uint8_t* token : tokens) sorted.push_back(*token);
      std::sort(sorted.begin(), sorted.end());
      sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
      for (uint8_t* token : tokens) {
        *token = static_cast<uint8_t>(std::lower_bound(sorted.begin(), sorted.end(), *token) -
                                      sorted.begin());
      }
    }
  }
  uint64_t Key() const {
    uint64_t key = 0;
    const auto put = [&](uint64_t value, int bits) { key = key << bits | value; };
    for (const ModelJob& job : jobs) {
      put(job.state, 4), put(job.token, 3), put(job.holder, 2), put(job.overdue, 1);
      put(job.reported, 1), put(job.counted, 2), put(job.outcome_token, 3), put(job.outcome, 3);
      put(job.successes, 2);
    }
    for (const auto* known : {&believes, &late}) {
      for (const Known& one : *known) put(one.job, 2), put(one.token, 3);
    }
    for (const bool one : dead) put(one, 1);
    return key;
  }
};

enum class Op {
  kPoll,      // who: worker; job: which it gets
  kReport,    // who
  kComplete,  // who, outcome
  kRelease,   // who
  kForget,    // who: the worker gives a lease up without a word
  kCrash,     // who
  kComeBack,  // who: registers as another process
  kTime,      // job: its lease's time passes
  kReclaim,   // job
  kAmnesty,   // the scheduler restarts
  kCancel,    // job
  kOverdue,   // job: it did not stop in time
  kRetry,     // job
};

struct Action {
  Op op;
  int who = 0;
  int job = 0;
  Outcome outcome = kNothing;
  bool late = false;     // By a message that was on its way.
  bool answered = true;  // The worker learns what became of it.
};

class ModelWorld {
 public:
  ModelWorld(const QueueFaults& faults, bool dependent) : faults_(faults), dependent_(dependent) {}

  ModelState Start() const {
    ModelState state;
    if (dependent_) state.jobs[1].state = v1::JOB_STATE_PENDING;
    return state;
  }
  // All that may happen, whether or not it changes anything.
  static std::vector<Action> Actions();
  // What `action` makes of the state; false where it cannot happen. A broken promise is written
  // down.
  bool Apply(const Action& action, ModelState* state);

  // The last worker's write: whether the queue accepts it.
  bool accepted() const { return accepted_; }
  const std::string& broken() const { return broken_; }

 private:
  void Broken(const char* what) {
    if (broken_.empty()) broken_ = what;
  }
  bool Change(ModelState* s, int job, JobCommand command);
  void EndAttempt(ModelState* s, int job);
  void Settle(ModelState* s);
  void Reclaim(ModelState* s, int job) {
    if (!faults_.never_reclaim) EndAttempt(s, job);
  }
  bool Poll(const Action& action, ModelState* s);
  bool Write(const Action& action, ModelState* s);
  bool Accept(const Action& action, const Known& lease, ModelState* s);
  void Accepts(const Known& lease, const ModelState& s);

  const QueueFaults faults_;
  const bool dependent_;
  bool accepted_ = false;
  std::string broken_;
};

std::vector<Action> ModelWorld::Actions() {
  std::vector<Action> actions;
  for (int who = 0; who < kWorkers; ++who) {
    for (const bool answered : {true, false}) {
      for (int job = 0; job < kJobs; ++job) {
        actions.push_back({.op = Op::kPoll, .who = who, .job = job, .answered = answered});
      }
      for (const bool late : {false, true}) {
        if (late && answered) continue;  // Nobody waits for it any more.
        actions.push_back({.op = Op::kReport, .who = who, .late = late, .answered = answered});
        actions.push_back({.op = Op::kRelease, .who = who, .late = late, .answered = answered});
        for (const Outcome outcome : {kSuccess, kFailure, kStopped}) {
          actions.push_back({.op = Op::kComplete,
                             .who = who,
                             .outcome = outcome,
                             .late = late,
                             .answered = answered});
        }
      }
    }
    for (const Op op : {Op::kForget, Op::kCrash, Op::kComeBack}) {
      actions.push_back({.op = op, .who = who});
    }
  }
  for (int job = 0; job < kJobs; ++job) {
    for (const Op op : {Op::kTime, Op::kReclaim, Op::kCancel, Op::kOverdue, Op::kRetry}) {
      actions.push_back({.op = op, .job = job});
    }
  }
  actions.push_back({.op = Op::kAmnesty});
  return actions;
}

bool ModelWorld::Change(ModelState* s, int job, JobCommand command) {
  ModelJob& row = s->jobs[static_cast<size_t>(job)];
  const auto state = static_cast<v1::JobState>(row.state);
  const auto next = NextState(state, command);
  if (!next.ok()) return false;
  if (IsEnded(state) && *next != state && command != JobCommand::kRetry) {
    Broken("a job came back from its end");
  }
  if (IsLeased(state) && !IsLeased(*next)) {
    row.holder = kNobody;
    row.overdue = row.reported = false;
  }
  row.state = static_cast<uint8_t>(*next);
  return true;
}

void ModelWorld::EndAttempt(ModelState* s, int job) {
  ModelJob& row = s->jobs[static_cast<size_t>(job)];
  v1::RetryPolicy policy;
  policy.set_max_attempts(kMaxAttempts);
  row.counted = static_cast<uint8_t>(std::min(row.counted + 1, kMaxAttempts));
  const bool again = DecideRetry(v1::ERROR_CLASS_WORKER_LOST, policy, row.counted, 0).again;
  Change(s, job, again ? JobCommand::kFailAgain : JobCommand::kFail);
}

// The second job follows the first.
void ModelWorld::Settle(ModelState* s) {
  if (!dependent_ || s->jobs[1].state != v1::JOB_STATE_PENDING || faults_.forget_dependents) return;
  const auto first = static_cast<v1::JobState>(s->jobs[0].state);
  if (!IsEnded(first)) return;
  Change(s, 1,
         first == v1::JOB_STATE_SUCCEEDED ? JobCommand::kDependenciesMet
                                          : JobCommand::kDependencyFailed);
}

bool ModelWorld::Poll(const Action& action, ModelState* s) {
  const auto who = static_cast<size_t>(action.who);
  Known& believes = s->believes[who];
  if (s->dead[who] || believes.job != kJobs) return false;
  int held = kJobs;
  for (int job = 0; job < kJobs; ++job) {
    if (s->jobs[static_cast<size_t>(job)].holder != action.who) continue;
    if (held != kJobs) Broken("a worker holds two leases");
    held = job;
  }
  ModelJob& row = s->jobs[static_cast<size_t>(action.job)];
  if (held != kJobs) {  // The same lease again, if he does not seem to have it.
    if (held != action.job || row.overdue || row.reported) return false;
  } else {
    if (row.state != v1::JOB_STATE_QUEUED || !Change(s, action.job, JobCommand::kLease)) {
      return false;
    }
    const uint8_t before = row.token;
    if (!faults_.reuse_fencing_token || row.token == 0) ++row.token;
    if (row.token <= before) Broken("a fencing token did not grow");
    row.holder = static_cast<uint8_t>(action.who);
  }
  if (action.answered) believes = {static_cast<uint8_t>(action.job), row.token};
  return true;
}

// What an accepted write has to be, whoever accepted it.
void ModelWorld::Accepts(const Known& lease, const ModelState& s) {
  const ModelJob& row = s.jobs[lease.job];
  accepted_ = true;
  if (lease.token != row.token) Broken("a write with an old token passed");
  if (row.overdue) Broken("a write passed after the lease's end");
}

bool ModelWorld::Accept(const Action& action, const Known& lease, ModelState* s) {
  ModelJob& row = s->jobs[lease.job];
  const Outcome outcome = action.op == Op::kRelease ? kGivenBack : action.outcome;
  const bool again = row.outcome_token != 0 && row.outcome_token == lease.token;
  if (outcome != kNothing && again && !faults_.complete_twice) {
    accepted_ = row.outcome == outcome;  // As it was answered before.
    return accepted_;
  }
  const bool newest = row.token == lease.token && row.holder == action.who;
  const auto state = static_cast<v1::JobState>(row.state);
  if (WhyLeaseIsOver(faults_, state, newest, row.overdue) != LeaseEnd::kNone) return false;
  if (outcome == kStopped && state != v1::JOB_STATE_CANCELLING) return false;
  Accepts(lease, *s);
  if (outcome == kNothing) {
    row.overdue = false;
    row.reported = true;
    return true;
  }
  row.outcome_token = row.token;
  row.outcome = outcome;
  if (outcome == kSuccess) {
    if (++row.successes > 1) Broken("a job succeeded twice");
    Change(s, lease.job, JobCommand::kSucceed);
  } else if (outcome == kFailure) {
    EndAttempt(s, lease.job);
  } else {
    Change(s, lease.job, outcome == kStopped ? JobCommand::kWorkerCancelled : JobCommand::kRelease);
  }
  return true;
}

bool ModelWorld::Write(const Action& action, ModelState* s) {
  const auto who = static_cast<size_t>(action.who);
  Known& from = action.late ? s->late[who] : s->believes[who];
  if (from.job == kJobs || (s->dead[who] && !action.late)) return false;
  const Known lease = from;
  const bool took = Accept(action, lease, s);
  if (action.late) return true;
  s->late[who] = lease;  // The message may come once more.
  const bool over = action.op != Op::kReport || !took;
  // A stop that came too early is refused and forgotten; the worker goes on.
  const bool goes_on = action.outcome == kStopped && !took &&
                       s->jobs[lease.job].state == v1::JOB_STATE_RUNNING &&
                       s->jobs[lease.job].token == lease.token;
  if (action.answered && over && !goes_on) s->believes[who] = Known();
  return true;
}

bool ModelWorld::Apply(const Action& action, ModelState* s) {
  accepted_ = false;
  ModelJob& row = s->jobs[static_cast<size_t>(action.job)];
  const auto who = static_cast<size_t>(action.who);
  const auto state = static_cast<v1::JobState>(row.state);
  switch (action.op) {
    case Op::kPoll:
      if (!Poll(action, s)) return false;
      break;
    case Op::kReport:
    case Op::kComplete:
    case Op::kRelease:
      if (!Write(action, s)) return false;
      break;
    case Op::kForget:
    case Op::kCrash:
      if (s->dead[who] || (action.op == Op::kForget && s->believes[who].job == kJobs)) return false;
      if (s->believes[who].job != kJobs) s->late[who] = s->believes[who];
      s->believes[who] = Known();
      s->dead[who] = action.op == Op::kCrash;
      break;
    case Op::kComeBack:
      if (!s->dead[who]) return false;
      s->dead[who] = false;
      for (int job = 0; job < kJobs; ++job) {
        if (s->jobs[static_cast<size_t>(job)].holder == action.who) EndAttempt(s, job);
      }
      break;
    case Op::kTime:
      if (!IsLeased(state) || row.overdue) return false;
      row.overdue = true;
      break;
    case Op::kReclaim:
      if (!IsLeased(state) || !row.overdue) return false;
      Reclaim(s, action.job);
      break;
    case Op::kAmnesty:
      for (ModelJob& job : s->jobs) job.overdue = false;
      break;
    case Op::kCancel:
      Change(s, action.job, JobCommand::kCancel);
      break;
    case Op::kOverdue:
      if (!Change(s, action.job, JobCommand::kCancelOverdue)) return false;
      break;
    case Op::kRetry:
      // A job whose need failed is not taken back before it.
      if (!IsEnded(state) ||
          (dependent_ && action.job == 1 && IsEnded(static_cast<v1::JobState>(s->jobs[0].state)) &&
           s->jobs[0].state != v1::JOB_STATE_SUCCEEDED)) {
        return false;
      }
      if (!Change(s, action.job, JobCommand::kRetry)) return false;
      row.counted = row.successes = 0;
      if (!dependent_ || action.job == 0) Change(s, action.job, JobCommand::kDependenciesMet);
      break;
  }
  Settle(s);
  for (const ModelJob& job : s->jobs) {
    if (IsLeased(static_cast<v1::JobState>(job.state)) != (job.holder != kNobody)) {
      Broken("a leased job has no holder, or an idle one has");
    }
    if (job.state == v1::JOB_STATE_SUCCEEDED &&
        (job.successes != 1 || job.outcome != kSuccess || job.outcome_token != job.token)) {
      Broken("the result is not the last granted lease's");
    }
  }
  s->Normalize();
  return true;
}

// Whether jobs may count on the step to come to their end: not on users, not on messages that are
// late, not on a worker that comes back just because he has a lease.
bool ByItself(const Action& action, const ModelState& state) {
  if (action.op == Op::kCancel || action.op == Op::kRetry || action.late) return false;
  return action.op != Op::kComeBack ||
         std::none_of(state.jobs.begin(), state.jobs.end(),
                      [&](const ModelJob& job) { return job.holder == action.who; });
}

struct Exploration {
  size_t states = 0;
  size_t steps = 0;
  std::string broken;
};

// Every state that can be reached, and from every one of them a way to the end of all jobs.
Exploration Explore(const QueueFaults& faults, bool dependent) {
  ModelWorld world(faults, dependent);
  const std::vector<Action> actions = ModelWorld::Actions();
  std::unordered_map<uint64_t, uint32_t> index;
  std::vector<ModelState> states = {world.Start()};
  std::vector<std::pair<uint32_t, uint32_t>> backward;  // (to, from) of steps by themselves.
  index[states[0].Key()] = 0;
  Exploration found;
  for (uint32_t at = 0; at < states.size(); ++at) {
    for (const Action& action : actions) {
      ModelState next = states[at];
      if (!world.Apply(action, &next)) continue;
      ++found.steps;
      if (!world.broken().empty()) {
        found.states = states.size();
        found.broken = world.broken();
        return found;
      }
      const auto [entry, fresh] = index.emplace(next.Key(), static_cast<uint32_t>(states.size()));
      if (fresh) states.push_back(next);
      if (entry->second != at && ByItself(action, states[at])) {
        backward.emplace_back(entry->second, at);
      }
    }
  }
  found.states = states.size();
  std::sort(backward.begin(), backward.end());
  backward.erase(std::unique(backward.begin(), backward.end()), backward.end());
  std::vector<bool> ends(states.size());
  std::vector<uint32_t> queue;
  for (uint32_t at = 0; at < states.size(); ++at) {
    ends[at] = std::all_of(states[at].jobs.begin(), states[at].jobs.end(), [](const ModelJob& job) {
      return IsEnded(static_cast<v1::JobState>(job.state));
    });
    if (ends[at]) queue.push_back(at);
  }
  while (!queue.empty()) {
    const uint32_t to = queue.back();
    queue.pop_back();
    for (auto edge = std::lower_bound(backward.begin(), backward.end(), std::pair(to, 0u));
         edge != backward.end() && edge->first == to; ++edge) {
      if (ends[edge->second]) continue;
      ends[edge->second] = true;
      queue.push_back(edge->second);
    }
  }
  if (std::count(ends.begin(), ends.end(), false) > 0) {
    found.broken = "from some state jobs never end";
  }
  return found;
}

class Model : public ::testing::TestWithParam<bool> {};

TEST_P(Model, EveryStateKeepsThePromises) {
  if (!GetParam() && getenv("QUANTD_MODEL_FULL") == nullptr) {
    GTEST_SKIP() << "7.5 million states: QUANTD_MODEL_FULL=1 looks at them";
  }
  const Exploration found = Explore({}, GetParam());
  EXPECT_EQ(found.broken, "");
  EXPECT_GT(found.states, 10'000u);
  printf("%zu states, %zu steps\n", found.states, found.steps);
}

INSTANTIATE_TEST_SUITE_P(Jobs, Model, ::testing::Values(false, true), [](const auto& info) {
  return info.param ? "OneNeedsTheOther" : "SideBySide";
});

// Model and queue side by side. Where several leases' time is over, it is over at once.
class Walk {
 public:
  Walk(uint64_t seed, bool dependent)
      : random_(seed), dependent_(dependent), world_({}, dependent), state_(world_.Start()) {
    t_.Register(TestWorker("w0"), "w0-0");
    t_.Register(TestWorker("w1"), "w1-0");
    for (int job = 0; job < kJobs; ++job) {
      v1::SubmitJobRequest request = QuantizeRequest();
      request.mutable_spec()->mutable_retry()->set_max_attempts(kMaxAttempts);
      request.mutable_spec()->mutable_retry()->mutable_backoff()->set_nanos(1);
      request.mutable_spec()->mutable_limits()->mutable_no_progress_time()->set_seconds(30'000'000);
      if (dependent && job == 1) request.mutable_spec()->add_dependencies()->set_job(names_[0]);
      names_[static_cast<size_t>(job)] = t_.Submit(request);
    }
  }
  // The first difference; empty when there is none.
  std::string Run(int steps) {
    const std::vector<Action> actions = ModelWorld::Actions();
    std::string trace;
    for (int i = 0; i < steps; ++i) {
      const Action& action =
          actions[static_cast<size_t>(random_.Below(static_cast<int64_t>(actions.size())))];
      if (!Both(action)) continue;
      absl::StrAppend(&trace, " ", static_cast<int>(action.op), ":", action.who, action.job,
                      action.late ? "late" : "");
      for (size_t job = 0; job < kJobs; ++job) {
        const v1::Job real = t_.Get(names_[job]);
        const ModelJob& row = state_.jobs[job];
        const std::string holder =
            row.holder == kNobody ? "" : absl::StrCat("workers/w", int{row.holder});
        if (real.state() != row.state || real.worker() != holder || took_ != world_.accepted()) {
          return absl::StrCat("the queue has ", StateWord(real.state()), " of ", real.worker(),
                              took_ ? ", accepted;" : ";", " the model ",
                              StateWord(static_cast<v1::JobState>(row.state)), " of ", holder,
                              world_.accepted() ? ", accepted" : "", "; steps", trace);
        }
      }
      ++steps_;
    }
    return world_.broken();
  }
  int64_t steps() const { return steps_; }

 private:
  // The action in both; false where it cannot happen.
  bool Both(const Action& action) {
    const auto who = static_cast<size_t>(action.who);
    const v1::Lease lease = action.late ? late_[who] : believes_[who];
    took_ = false;
    switch (action.op) {
      case Op::kOverdue:
        return false;  // A matter of the clock alone: queue_test.cc.
      case Op::kPoll:
        return Poll(action);
      case Op::kTime:
      case Op::kReclaim:
        return ForAll(action.op);
      default:
        break;
    }
    if (!world_.Apply(action, &state_)) return false;
    switch (action.op) {
      case Op::kReport:
        took_ = t_.Report(lease).ok();
        break;
      case Op::kComplete:
      case Op::kRelease:
        took_ = End(action, lease);
        break;
      case Op::kComeBack:
        t_.Register(TestWorker(absl::StrCat("w", who)), Instance(who, ++lives_[who]));
        break;
      case Op::kAmnesty:
        EXPECT_TRUE(t_.queue->Renew(t_.now).ok());
        break;
      case Op::kCancel: {
        v1::CancelJobRequest request;
        request.set_name(names_[static_cast<size_t>(action.job)]);
        EXPECT_TRUE(t_.queue->CancelJob(request, t_.now).ok());
        break;
      }
      case Op::kRetry: {
        v1::RetryJobRequest request;
        request.set_name(names_[static_cast<size_t>(action.job)]);
        EXPECT_TRUE(t_.queue->RetryJob(request, t_.now).ok());
        break;
      }
      default:
        break;
    }
    const bool writes =
        action.op == Op::kReport || action.op == Op::kComplete || action.op == Op::kRelease;
    const bool leaves = action.op == Op::kForget || action.op == Op::kCrash;
    if ((writes && !action.late) || (leaves && !lease.job().empty())) late_[who] = lease;
    if (state_.believes[who].job == kJobs) believes_[who].Clear();
    return true;
  }
  bool Poll(const Action& action) {
    const auto who = static_cast<size_t>(action.who);
    if (state_.dead[who] || state_.believes[who].job != kJobs) return false;
    const auto answer = t_.Lease(absl::StrCat("w", who), absl::StrCat("poll-", ++polls_),
                                 Instance(who, lives_[who]));
    EXPECT_TRUE(answer.ok()) << answer.status();
    Action same = action;
    for (same.job = 0; same.job < kJobs; ++same.job) {
      if (answer->lease().job() == names_[static_cast<size_t>(same.job)]) break;
      ModelState copy = state_;
      EXPECT_TRUE(answer->has_lease() || !world_.Apply(same, &copy))
          << "the model grants a lease, the queue does not";
    }
    if (!answer->has_lease()) return false;
    EXPECT_TRUE(world_.Apply(same, &state_)) << "the queue grants a lease, the model does not";
    if (action.answered) believes_[who] = answer->lease();
    return true;
  }
  bool ForAll(Op op) {
    bool any = false;
    for (int job = 0; job < kJobs; ++job) any |= world_.Apply({.op = op, .job = job}, &state_);
    if (any && op == Op::kTime) t_.now += t_.options.lease_time;
    if (any && op == Op::kReclaim) {
      EXPECT_TRUE(t_.queue->Tick(t_.now).ok());
    }
    return any;
  }
  bool End(const Action& action, const v1::Lease& lease) {
    if (action.op == Op::kRelease) {
      v1::ReleaseJobRequest request;
      *request.mutable_lease() = lease;
      return t_.queue->ReleaseJob(request, t_.now).ok();
    }
    if (action.outcome == kSuccess) return t_.Succeed(lease).ok();
    if (action.outcome == kFailure) return t_.Fail(lease, v1::ERROR_CLASS_ENGINE_CRASH).ok();
    v1::CompleteJobRequest request;
    *request.mutable_lease() = lease;
    request.mutable_cancelled();
    return t_.queue->CompleteJob(request, t_.now).ok();
  }
  static std::string Instance(size_t who, int life) { return absl::StrCat("w", who, "-", life); }
  static QueueOptions Options() {
    QueueOptions options;
    options.cancel_grace = options.lost_worker_time = absl::Hours(24 * 365);
    return options;
  }

  TestRandom random_;
  const bool dependent_;
  ModelWorld world_;
  ModelState state_;
  TestQueue t_{Options()};
  std::array<std::string, kJobs> names_;
  std::array<v1::Lease, kWorkers> believes_;
  std::array<v1::Lease, kWorkers> late_;
  std::array<int, kWorkers> lives_{};
  int polls_ = 0;
  bool took_ = false;
  int64_t steps_ = 0;
};

TEST_P(Model, DoesWhatTheQueueDoes) {
  const char* wanted = getenv("QUANTD_MODEL_WALKS");
  const int walks = wanted == nullptr ? 12 : atoi(wanted);
  int64_t steps = 0;
  for (int seed = 1; seed <= walks; ++seed) {
    Walk walk(static_cast<uint64_t>(seed), GetParam());
    ASSERT_EQ(walk.Run(500), "") << "walk " << seed;
    ASSERT_FALSE(HasFailure()) << "walk " << seed;
    steps += walk.steps();
  }
  printf("%d walks, %lld steps\n", walks, static_cast<long long>(steps));
}

struct BrokenVariant {
  const char* name;
  bool QueueFaults::*fault;
};

class BrokenModel : public ::testing::TestWithParam<BrokenVariant> {};

TEST_P(BrokenModel, IsCaught) {
  QueueFaults faults;
  faults.*GetParam().fault = true;
  const Exploration found = Explore(faults, /*dependent=*/true);
  EXPECT_NE(found.broken, "");
  printf("%s, after %zu states\n", found.broken.c_str(), found.states);
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenModel,
    ::testing::Values(BrokenVariant{"ignore_fence", &QueueFaults::ignore_fence},
                      BrokenVariant{"renew_after_expiry", &QueueFaults::renew_after_expiry},
                      BrokenVariant{"never_reclaim", &QueueFaults::never_reclaim},
                      BrokenVariant{"forget_dependents", &QueueFaults::forget_dependents},
                      BrokenVariant{"reuse_fencing_token", &QueueFaults::reuse_fencing_token}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quantd
