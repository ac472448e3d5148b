// Load for schedulers that are disturbed: clients and workers as threads of the test, so that many
// jobs pass in seconds, the history of what they were told, and what has to be true because of it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"
#include "tests/e2e/processes.h"

namespace quantd::e2e {

// A number from the environment.
uint64_t FromEnvironment(const char* name, uint64_t otherwise);
// The seed of a run, from QUANTD_CHAOS_SEED or at random; printed.
uint64_t ChaosSeed();

// A scheduler that comes back on the address it had.
class Scheduler {
 public:
  // `store` is a URL; empty: SQLite in the folder. `flags`: further ones of quantd.
  Scheduler(std::string folder, std::string store, int lease_seconds = 3,
            std::vector<std::string> flags = {});
  // Waits until it answers; false when it has ended before that.
  bool TryStart(const std::map<std::string, std::string>& environment = {});
  // Fails the test instead.
  void Start();
  void Kill();
  // SIGTERM; the exit status.
  int Stop();
  Process& process() { return *process_; }
  const std::string& address() const { return address_; }
  const std::string& folder() const { return folder_; }
  std::string Log() const { return process_->Log(); }

 private:
  const std::string folder_;
  const std::string store_;
  const int lease_seconds_;
  const std::vector<std::string> flags_;
  std::string address_ = "127.0.0.1:0";
  std::unique_ptr<Process> process_;
};

// What a client of several schedulers does: the same request again at the next one, until somebody
// answers.
class Client {
 public:
  // Gives up at once when `*give_up`.
  explicit Client(const std::vector<std::string>& addresses,
                  const std::atomic<bool>* give_up = nullptr);
  const std::shared_ptr<grpc::Channel>& channel() const { return channels_[current_]; }
  void Prepare(grpc::ClientContext* context) const;
  void Next() { current_ = (current_ + 1) % channels_.size(); }

  template <typename Service, typename Method, typename Request, typename Response>
  grpc::Status Ask(Method method, const Request& request, Response* response) {
    return Persist([&](grpc::ClientContext* context) {
      response->Clear();
      return ((*Service::NewStub(channel())).*method)(context, request, response);
    });
  }
  // Until the blob is there; fills in digest and size.
  grpc::Status Upload(const std::string& bytes, v1::Blob* blob);
  grpc::Status Download(const v1::Blob& blob, std::string* bytes);
  grpc::Status Events(const std::string& job, std::vector<v1::JobEvent>* events);
  // All there are.
  grpc::Status Jobs(std::vector<v1::Job>* jobs);

 private:
  template <typename Call>
  grpc::Status Persist(Call call) {
    grpc::Status status;
    const absl::Time end = absl::Now() + absl::Seconds(60);
    while (absl::Now() < end && (give_up_ == nullptr || !*give_up_)) {
      grpc::ClientContext context;
      Prepare(&context);
      status = call(&context);
      // A disk that is full or broken for a moment is one to come back to; a server that is going
      // down says CANCELLED.
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE &&
          status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED &&
          status.error_code() != grpc::StatusCode::INTERNAL &&
          status.error_code() != grpc::StatusCode::CANCELLED &&
          status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
        return status;
      }
      Next();
      absl::SleepFor(absl::Milliseconds(25));
    }
    return status;
  }

  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  size_t current_ = 0;
  const std::atomic<bool>* give_up_;
};

// What clients and workers were told.
class History {
 public:
  // A submit was acknowledged.
  void Accepted(const std::string& request_id, const std::string& job);
  void Granted(const v1::Lease& lease);
  // So many events of the attempt were acknowledged.
  void Reported(const v1::Lease& lease, int64_t events);
  // An outcome was accepted.
  void Completed(const v1::Lease& lease, v1::JobState state);
  // The state after a cancel.
  void Cancelled(v1::JobState state);
  void Lost();

  int64_t accepted() const;
  int64_t ended() const;  // Of which we know.
  // Submits, leases and outcomes that were answered.
  int64_t answers() const;
  std::string Summary() const;
  // What is not as it was told, after all has ended; empty: every promise was kept. Sweeps' jobs
  // are nobody's submit: with `all_submitted` there must be no others than those acknowledged.
  std::vector<std::string> Broken(Client client, bool all_submitted) const;

 private:
  struct Attempt {
    int64_t token = 0;
    std::string worker;
    int64_t events = 0;
  };
  struct Told {
    std::map<int, Attempt> attempts;
    std::set<int64_t> succeeded;  // Tokens whose success was accepted.
  };
  void CheckJob(const v1::Job& job, Client* client, std::vector<std::string>* broken) const;

  mutable absl::Mutex mutex_;
  std::map<std::string, Told> jobs_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> requests_ ABSL_GUARDED_BY(mutex_);  // Their jobs.
  std::vector<std::string> broken_ ABSL_GUARDED_BY(mutex_);              // Seen on the way.
  int64_t leases_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t outcomes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t ended_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t lost_ ABSL_GUARDED_BY(mutex_) = 0;
};

struct Manner {
  // Nothing is cancelled, no worker forgets a job, gives one back or fails, and none may fail.
  bool steady = false;
  // Jobs upload what they make: schedulers that share a store have to share the artifacts.
  bool outputs = true;
  int64_t step_ms = 4;  // About; a job has one to four.
  int workers = 6;
};

// A worker that can do what the load's jobs ask for. `name`: "workers/...".
grpc::Status RegisterFake(Client* client, const std::string& name, const std::string& instance);

class FakeWorker {
 public:
  // Works until `*stop`.
  FakeWorker(int index, const std::vector<std::string>& addresses, uint64_t seed, Manner manner,
             History* history, const std::atomic<bool>* stop);
  void Run();

 private:
  void Register();
  void Work(const v1::Lease& lease);
  bool Report(const v1::Lease& lease, int64_t number, v1::JobEvent event);
  bool Release(const v1::Lease& lease);
  void Complete(const v1::Lease& lease, bool success);

  const std::string name_;
  const Manner manner_;
  Client client_;
  std::mt19937_64 random_;
  History& history_;
  const std::atomic<bool>& stop_;
};

// Clients that submit, cancel and watch, and workers, all at once.
class Load {
 public:
  Load(const std::vector<std::string>& addresses, uint64_t seed, Manner manner = {});
  ~Load();
  // Submits nothing more and waits until all jobs have ended; false after `limit`.
  bool Finish(absl::Duration limit);
  // Everybody goes at once, and never comes back.
  void Abandon();
  const History& history() const { return history_; }
  Client client() const { return Client(addresses_); }
  // Watches that broke and went on where they were.
  int64_t resumed() const { return resumed_; }

 private:
  void Submit(int index);
  void Watch(const std::string& job, Client* client);

  const std::vector<std::string> addresses_;
  const uint64_t seed_;
  const Manner manner_;
  History history_;
  std::atomic<bool> stop_submitting_{false};
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> resumed_{0};
  std::vector<std::thread> clients_;
  std::vector<std::thread> workers_;
};

}  // namespace quantd::e2e
