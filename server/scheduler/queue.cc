// The shell around the operations: transactions, effects after the commit, counters.
#include "server/scheduler/queue.h"

#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "openssl/rand.h"
#include "proto/errors.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/references.h"

namespace quantd {
namespace {

uint64_t SecureRandom() {
  uint64_t bits = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&bits), sizeof(bits));
  return bits;
}

QueueOptions WithDefaults(QueueOptions options) {
  if (!options.lease_clock) options.lease_clock = [](absl::Time now) { return now; };
  if (!options.random) options.random = SecureRandom;
  return options;
}

// Ends the transaction of a validate_only request: everything was tried, nothing is kept.
constexpr char kValidated[] = "quantd/validated";

template <typename Request>
bool ValidateOnly(const Request& request) {
  if constexpr (std::is_same_v<Request, Submission<v1::SubmitJobRequest>> ||
                std::is_same_v<Request, Submission<v1::SubmitSweepRequest>>) {
    return request.request.validate_only();
  }
  return false;
}

// What was never stored has no name.
void Forget(v1::SubmitJobResponse* response) {
  response->mutable_job()->clear_name();
  response->mutable_job()->clear_etag();
}
void Forget(v1::SubmitSweepResponse* response) { response->mutable_sweep()->clear_name(); }
template <typename Response>
void Forget(Response*) {}

// What other schedulers are told: "JOB SWEEP LAST_SEQUENCE STATE" of a job that changed, and a word
// when there may be something to lease.
constexpr char kRunnableNews[] = "runnable";

void Announce(const QueueEffects& effects, Txn* txn) {
  for (const QueueEffects::JobChange& change : effects.changes) {
    txn->Publish(absl::StrCat(change.job, " ", change.sweep, " ", change.last_sequence, " ",
                              int{change.state}));
  }
  if (effects.runnable) txn->Publish(kRunnableNews);
}

}  // namespace

Queue::Queue(JobStore* store, QueueOptions options)
    : store_(store), options_(WithDefaults(std::move(options))) {}

Queue::~Queue() { store_->Follow({}); }

absl::StatusOr<std::unique_ptr<Queue>> Queue::Open(JobStore* store, QueueOptions options,
                                                   absl::Time now) {
  std::unique_ptr<Queue> queue(new Queue(store, std::move(options)));
  QD_RETURN_IF_ERROR(queue->Renew(now), "renewing the leases of before the restart");
  store->Follow([raw = queue.get()](absl::string_view news) { raw->TakeNews(news); });
  return queue;
}

void Queue::Publish(const QueueEffects& effects, bool committed) {
  {
    absl::MutexLock lock(&mutex_);
    if (committed) {
      AddCounters(effects.counters, &counters_);
    } else {
      // A refused write changes nothing but is counted as refused.
      counters_.fenced_writes += effects.counters.fenced_writes;
      counters_.duplicate_completions += effects.counters.duplicate_completions;
    }
  }
  if (!committed || options_.observer == nullptr) return;
  for (const QueueEffects::JobChange& change : effects.changes) {
    options_.observer->JobChanged(change.job, change.sweep, change.last_sequence, change.state);
  }
  if (effects.runnable) options_.observer->JobsRunnable();
  FaultPoint("queue/announced");
}

void Queue::TakeNews(absl::string_view news) {
  if (options_.observer == nullptr) return;
  if (news.empty()) return options_.observer->AnythingChanged();
  if (news == kRunnableNews) return options_.observer->JobsRunnable();
  const std::vector<std::string> words = absl::StrSplit(news, ' ');
  int64_t last_sequence = 0;
  int state = 0;
  if (words.size() != 4 || !absl::SimpleAtoi(words[2], &last_sequence) ||
      !absl::SimpleAtoi(words[3], &state)) {
    return options_.observer->AnythingChanged();  // Of a newer scheduler.
  }
  options_.observer->JobChanged(words[0], words[1], last_sequence,
                                static_cast<v1::JobState>(state));
}

template <typename Request, typename Response>
void Queue::Write(Body<Request, Response> body, Request request, absl::Time now,
                  Done<Response> done) {
  struct State {
    Request request;
    Response response;
    QueueEffects effects;
  };
  auto state = std::make_shared<State>();
  state->request = std::move(request);
  store_->Submit(
      [this, body, now, state](Txn& txn) -> absl::Status {
        QueueOperation op(&txn, &options_, now);
        absl::StatusOr<Response> response = body(op, state->request);
        absl::Status status = response.status();
        if (status.ok()) status = op.Settle();
        FaultPoint("queue/settled");
        state->effects = std::move(op.effects);
        if (!status.ok()) return status;
        state->response = *std::move(response);
        if (ValidateOnly(state->request)) return absl::CancelledError(kValidated);
        Announce(state->effects, &txn);
        return absl::OkStatus();
      },
      [this, state, done = std::move(done)](absl::Status status) {
        if (absl::IsCancelled(status) && status.message() == kValidated) {
          Forget(&state->response);
          done(std::move(state->response));
          return;
        }
        Publish(state->effects, status.ok());
        CountRefusal(status);
        if (!status.ok()) return done(std::move(status));
        done(std::move(state->response));
      });
}

template <typename Request, typename Response>
absl::StatusOr<Response> Queue::WriteAndWait(Body<Request, Response> body, Request request,
                                             absl::Time now) {
  absl::Notification notification;
  std::optional<absl::StatusOr<Response>> result;
  Write<Request, Response>(body, std::move(request), now, [&](absl::StatusOr<Response> response) {
    result = std::move(response);
    notification.Notify();
  });
  notification.WaitForNotification();
  return *std::move(result);
}

// Both forms of one operation.
#define QUEUE_WRITE(Name, Request, Response)                                          \
  void Queue::Name(Request request, absl::Time now, Done<Response> done) {            \
    Write<Request, Response>(bodies::Name, std::move(request), now, std::move(done)); \
  }                                                                                   \
  absl::StatusOr<Response> Queue::Name(Request request, absl::Time now) {             \
    return WriteAndWait<Request, Response>(bodies::Name, std::move(request), now);    \
  }

QUEUE_WRITE(SubmitJob, Submission<v1::SubmitJobRequest>, v1::SubmitJobResponse)
QUEUE_WRITE(CancelJob, v1::CancelJobRequest, v1::Job)
QUEUE_WRITE(RetryJob, v1::RetryJobRequest, v1::Job)
QUEUE_WRITE(SubmitSweep, Submission<v1::SubmitSweepRequest>, v1::SubmitSweepResponse)
QUEUE_WRITE(CancelSweep, v1::CancelSweepRequest, v1::Sweep)
QUEUE_WRITE(RetrySweep, v1::RetrySweepRequest, v1::Sweep)
QUEUE_WRITE(RegisterWorker, v1::RegisterWorkerRequest, v1::RegisterWorkerResponse)
QUEUE_WRITE(LeaseJob, v1::LeaseJobRequest, v1::LeaseJobResponse)
QUEUE_WRITE(ReportJob, v1::ReportJobRequest, v1::ReportJobResponse)
QUEUE_WRITE(CompleteJob, v1::CompleteJobRequest, v1::CompleteJobResponse)
QUEUE_WRITE(ReleaseJob, v1::ReleaseJobRequest, v1::ReleaseJobResponse)
QUEUE_WRITE(DeregisterWorker, v1::DeregisterWorkerRequest, v1::DeregisterWorkerResponse)

#undef QUEUE_WRITE

absl::Status Queue::Renew(absl::Time now) {
  return WriteAndWait<RenewRequest, RenewResponse>(bodies::Renew, {}, now).status();
}

absl::Status Queue::Tick(absl::Time now) {
  TickRequest request;
  {
    absl::MutexLock lock(&mutex_);
    request.last_tick = std::exchange(last_tick_, now);
  }
  return WriteAndWait<TickRequest, TickResponse>(bodies::Tick, request, now).status();
}

void Queue::CountRefusal(const absl::Status& status) {
  if (ReasonOf(status) != kReasonQuotaExceeded) return;
  absl::MutexLock lock(&mutex_);
  ++counters_.quota_refusals[ReasonMetadata(status, "limit")];
}

absl::Status Queue::AdmitArtifact(const std::string& tenant, const v1::Manifest& manifest) {
  const absl::Status admitted = store_->Run([&](Txn& txn) -> absl::Status {
    std::vector<std::string> keys = BlobKeys(manifest);
    keys.push_back(ArtifactKey(tenant, manifest.sha256()));
    QD_RETURN_IF_ERROR(KeepReachable(txn, keys));
    QD_RETURN_IF_ERROR(CheckArtifactQuota(txn, options_.tenants, tenant, manifest.total_bytes()));
    return txn.PutArtifactBytes(tenant, manifest.sha256(), manifest.total_bytes());
  });
  CountRefusal(admitted);
  return admitted;
}

absl::Status Queue::CheckLease(const v1::Lease& lease, absl::Time now) {
  return store_->Read(
      [&](ReadTxn& txn) { return CurrentLease(txn, options_, lease, now).status(); });
}

QueueCounters Queue::Counters() const {
  absl::MutexLock lock(&mutex_);
  return counters_;
}

}  // namespace quantd
