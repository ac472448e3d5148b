// Stubs, deadlines and the list of calls under way.
#include "client/scheduler.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "proto/channel.h"
#include "proto/errors.h"
#include "proto/quantd/v1/access.grpc.pb.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/sweep.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"

namespace quantd {
namespace {
// The slowest unary call, a submit of a large sweep, takes well under a second.
constexpr std::chrono::seconds kCallDeadline{30};
constexpr std::chrono::seconds kHealthDeadline{5};
constexpr char kHealthMethod[] = "/grpc.health.v1.Health/Check";
// grpc.health.v1.HealthCheckResponse with status SERVING: field 1, value 1.
constexpr absl::string_view kServing("\x08\x01", 2);
}  // namespace

struct Scheduler::State {
  State(const ConnectOptions& options, absl::StatusOr<std::shared_ptr<grpc::Channel>> connected)
      : address(options.address),
        unusable(connected.status()),
        channel(connected.ok()
                    ? *connected
                    : grpc::CreateChannel("unix:/dev/null", grpc::InsecureChannelCredentials())),
        jobs(v1::JobService::NewStub(channel)),
        sweeps(v1::SweepService::NewStub(channel)),
        artifacts(v1::ArtifactService::NewStub(channel)),
        catalog(v1::CatalogService::NewStub(channel)),
        access(v1::AccessService::NewStub(channel)) {}

  // Registers a call while it is under way, so that Abort reaches it.
  class Running {
   public:
    Running(State* state, grpc::ClientContext* context) : state_(state), context_(context) {
      const absl::MutexLock lock(&state_->mutex);
      if (state_->aborted) context_->TryCancel();
      state_->contexts.insert(context_);
    }
    ~Running() {
      const absl::MutexLock lock(&state_->mutex);
      state_->contexts.erase(context_);
    }

   private:
    State* state_;
    grpc::ClientContext* context_;
  };

  bool Aborted() const {
    const absl::MutexLock lock(&mutex);
    return aborted;
  }

  absl::Status Convert(const grpc::Status& status) const {
    absl::Status result = FromGrpcStatus(status);
    if (absl::IsCancelled(result) && !Aborted()) {
      // Nobody here has ended the call: so gRPC answers while the scheduler goes down.
      result = absl::UnavailableError("it is being restarted");
    }
    if (!absl::IsUnavailable(result) || !ReasonOf(result).empty()) return result;
    return Annotate(result, absl::StrCat("the scheduler at ", address, " cannot be reached"));
  }

  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Unary(Stub* stub,
                                 grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                              Response*),
                                 const Request& request) {
    QD_RETURN_IF_ERROR(unusable);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallDeadline);
    const Running running(this, &context);
    Response response;
    const grpc::Status status = (stub->*method)(&context, request, &response);
    if (!status.ok()) return Convert(status);
    const auto& metadata = context.GetServerInitialMetadata();
    if (const auto found = metadata.find(kVersionMetadata); found != metadata.end()) {
      const absl::MutexLock lock(&mutex);
      version.assign(found->second.data(), found->second.size());
    }
    return response;
  }

  template <typename Open, typename Message>
  absl::Status Read(Open open, const Reader<Message>& use) {
    QD_RETURN_IF_ERROR(unusable);
    grpc::ClientContext context;
    const Running running(this, &context);
    auto reader = open(&context);
    Message message;
    bool stopped = false;
    while (!stopped && reader->Read(&message)) stopped = !use(message);
    if (stopped) context.TryCancel();
    const grpc::Status status = reader->Finish();
    return stopped || status.ok() ? absl::OkStatus() : Convert(status);
  }

  const std::string address;
  const absl::Status unusable;  // Why there is no real channel.
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::JobService::Stub> jobs;
  std::unique_ptr<v1::SweepService::Stub> sweeps;
  std::unique_ptr<v1::ArtifactService::Stub> artifacts;
  std::unique_ptr<v1::CatalogService::Stub> catalog;
  std::unique_ptr<v1::AccessService::Stub> access;
  mutable absl::Mutex mutex;
  std::set<grpc::ClientContext*> contexts ABSL_GUARDED_BY(mutex);
  bool aborted ABSL_GUARDED_BY(mutex) = false;
  std::string version ABSL_GUARDED_BY(mutex);
};

Scheduler::Scheduler(const ConnectOptions& options)
    : state_(std::make_unique<State>(options, Connect(options, ClientChannelArguments()))) {}
Scheduler::~Scheduler() = default;

void Scheduler::Abort() {
  const absl::MutexLock lock(&state_->mutex);
  state_->aborted = true;
  for (grpc::ClientContext* context : state_->contexts) context->TryCancel();
}

absl::StatusOr<bool> Scheduler::Serving() {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kHealthDeadline);
  const State::Running running(state_.get(), &context);
  grpc::GenericStub stub(state_->channel);
  grpc::CompletionQueue queue;
  const grpc::Slice nothing;
  const auto call =
      stub.PrepareUnaryCall(&context, kHealthMethod, grpc::ByteBuffer(&nothing, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return state_->Convert(status);
  grpc::Slice bytes;
  if (!answer.DumpToSingleSlice(&bytes).ok()) return absl::DataLossError("no health status came");
  return absl::string_view(reinterpret_cast<const char*>(bytes.begin()), bytes.size()) == kServing;
}

std::string Scheduler::version() const {
  const absl::MutexLock lock(&state_->mutex);
  return state_->version;
}

bool Scheduler::WaitUntilConnected(absl::Duration limit) {
  return state_->channel->WaitForConnected(std::chrono::system_clock::now() +
                                           absl::ToChronoMilliseconds(limit));
}

#define QD_UNARY(Service, stub, Method, Response)                                    \
  absl::StatusOr<v1::Response> Scheduler::Call(const v1::Method##Request& request) { \
    return state_->Unary(state_->stub.get(), &v1::Service::Stub::Method, request);   \
  }
QD_UNARY(JobService, jobs, SubmitJob, SubmitJobResponse)
QD_UNARY(JobService, jobs, GetJob, Job)
QD_UNARY(JobService, jobs, ListJobs, ListJobsResponse)
QD_UNARY(JobService, jobs, CancelJob, Job)
QD_UNARY(JobService, jobs, RetryJob, Job)
QD_UNARY(SweepService, sweeps, SubmitSweep, SubmitSweepResponse)
QD_UNARY(SweepService, sweeps, GetSweep, Sweep)
QD_UNARY(SweepService, sweeps, ListSweeps, ListSweepsResponse)
QD_UNARY(SweepService, sweeps, CancelSweep, Sweep)
QD_UNARY(SweepService, sweeps, RetrySweep, Sweep)
QD_UNARY(ArtifactService, artifacts, FindMissingBlobs, FindMissingBlobsResponse)
QD_UNARY(ArtifactService, artifacts, StartUpload, StartUploadResponse)
QD_UNARY(ArtifactService, artifacts, ListArtifacts, ListArtifactsResponse)
QD_UNARY(ArtifactService, artifacts, GetArtifact, Artifact)
QD_UNARY(ArtifactService, artifacts, CreateArtifact, Artifact)
QD_UNARY(CatalogService, catalog, ListWorkers, ListWorkersResponse)
QD_UNARY(CatalogService, catalog, GetCatalog, Catalog)
QD_UNARY(AccessService, access, WhoAmI, WhoAmIResponse)
QD_UNARY(AccessService, access, CreateToken, CreateTokenResponse)
QD_UNARY(AccessService, access, ListTokens, ListTokensResponse)
QD_UNARY(AccessService, access, RevokeToken, Token)
QD_UNARY(AccessService, access, PutSecret, Secret)
QD_UNARY(AccessService, access, ListSecrets, ListSecretsResponse)
QD_UNARY(AccessService, access, DeleteSecret, DeleteSecretResponse)
#undef QD_UNARY

absl::Status Scheduler::Stream(const v1::WatchJobRequest& request,
                               const Reader<v1::JobEvent>& use) {
  return state_->Read([&](auto* context) { return state_->jobs->WatchJob(context, request); }, use);
}

absl::Status Scheduler::Stream(const v1::WatchSweepRequest& request,
                               const Reader<v1::SweepEvent>& use) {
  return state_->Read([&](auto* context) { return state_->sweeps->WatchSweep(context, request); },
                      use);
}

absl::Status Scheduler::Stream(const v1::DownloadBlobRequest& request,
                               const Reader<v1::DownloadBlobResponse>& use) {
  return state_->Read(
      [&](auto* context) { return state_->artifacts->DownloadBlob(context, request); }, use);
}

absl::StatusOr<v1::UploadBlobResponse> Scheduler::Upload(
    const std::function<absl::StatusOr<bool>(v1::UploadBlobRequest*)>& next) {
  QD_RETURN_IF_ERROR(state_->unusable);
  grpc::ClientContext context;
  const State::Running running(state_.get(), &context);
  v1::UploadBlobResponse response;
  const auto writer = state_->artifacts->UploadBlob(&context, &response);
  absl::Status local;
  for (;;) {
    v1::UploadBlobRequest request;
    const absl::StatusOr<bool> more = next(&request);
    if (!more.ok()) local = more.status();
    if (!more.ok() || !*more || !writer->Write(request)) break;
  }
  if (!local.ok()) context.TryCancel();
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  if (!local.ok()) return local;
  if (!status.ok()) return state_->Convert(status);
  return response;
}

}  // namespace quantd
