// A worker that no worker of ours is: it completes a job twice with different outcomes, and goes on
// reporting with the lease that is over. The alerts' test provokes with it what only a mistake
// would.
// Usage: misbehaving_worker HOST:PORT SECONDS
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <cstdlib>

#include "absl/time/clock.h"
#include "proto/channel.h"
#include "proto/quantd/v1/worker.grpc.pb.h"
#include "proto/yaml.h"

namespace quantd {
namespace {

constexpr char kCatalog[] =
    "{engine_version: x, kinds: [quantize], methods: [{name: rtn, formats: [gptq]}], devices: "
    "[{type: cpu}]}";

int Misbehave(const std::string& address, int seconds) {
  const auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                                 ClientChannelArguments());
  const auto stub = v1::WorkerService::NewStub(channel);
  v1::RegisterWorkerRequest hello;
  hello.mutable_worker()->set_name("workers/misbehaving");
  hello.set_instance_id("one");
  if (!YamlToMessage(kCatalog, "catalog", hello.mutable_worker()->mutable_catalog()).ok()) return 1;
  grpc::ClientContext hello_context;
  v1::RegisterWorkerResponse welcome;
  if (!stub->RegisterWorker(&hello_context, hello, &welcome).ok()) return 1;
  std::puts("registered");
  std::fflush(stdout);

  v1::LeaseJobRequest ask;
  ask.set_worker(hello.worker().name());
  ask.set_instance_id("one");
  ask.set_request_id("a");
  ask.mutable_wait()->set_seconds(20);
  v1::LeaseJobResponse leased;
  grpc::ClientContext lease_context;
  if (!stub->LeaseJob(&lease_context, ask, &leased).ok() || !leased.has_lease()) return 1;

  v1::CompleteJobRequest done;
  *done.mutable_lease() = leased.lease();
  done.set_first_event(1);
  done.mutable_success();
  v1::CompleteJobResponse answer;
  grpc::ClientContext first_context;
  if (!stub->CompleteJob(&first_context, done, &answer).ok()) return 1;
  for (int i = 0; i < seconds * 5; ++i) {
    done.mutable_failure()->set_message("another outcome");
    grpc::ClientContext second_context, report_context;
    if (stub->CompleteJob(&second_context, done, &answer).ok()) return 1;
    v1::ReportJobRequest report;
    *report.mutable_lease() = leased.lease();
    report.set_first_event(1);
    v1::ReportJobResponse reported;
    if (stub->ReportJob(&report_context, report, &reported).ok()) return 1;
    absl::SleepFor(absl::Milliseconds(200));
  }
  return 0;
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) {
  return argc == 3 ? quantd::Misbehave(argv[1], std::atoi(argv[2])) : 2;
}
