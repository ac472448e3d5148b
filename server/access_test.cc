// Every method of the API against every kind of credential, generated from the service descriptors:
// a new method without an expectation here, or without a policy in the server, fails. And what TLS
// promises: names are checked, certificates are followed when they change, identities belong to
// calls and not to connections.
#include <gmock/gmock.h>
#include <google/protobuf/dynamic_message.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "proto/channel.h"
#include "proto/connect.h"
#include "proto/errors.h"
#include "proto/quantd/v1/access.grpc.pb.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/sweep.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"
#include "server/auth/method_policy.h"
#include "server/auth/testing.h"
#include "server/server.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Who may call what, said a second time and independently of server/auth/method_policy.cc:
// R reader, U user, A administrator, W worker.
const std::map<std::string, std::string>& Expected() {
  static const auto& expected = *new std::map<std::string, std::string>{
      {"JobService/SubmitJob", "UA"},
      {"JobService/GetJob", "RUA"},
      {"JobService/ListJobs", "RUA"},
      {"JobService/WatchJob", "RUA"},
      {"JobService/CancelJob", "UA"},
      {"JobService/RetryJob", "UA"},
      {"SweepService/SubmitSweep", "UA"},
      {"SweepService/GetSweep", "RUA"},
      {"SweepService/ListSweeps", "RUA"},
      {"SweepService/WatchSweep", "RUA"},
      {"SweepService/CancelSweep", "UA"},
      {"SweepService/RetrySweep", "UA"},
      {"ArtifactService/FindMissingBlobs", "UAW"},
      {"ArtifactService/StartUpload", "UAW"},
      {"ArtifactService/UploadBlob", "UAW"},
      {"ArtifactService/DownloadBlob", "RUAW"},
      {"ArtifactService/ListArtifacts", "RUA"},
      {"ArtifactService/GetArtifact", "RUA"},
      {"ArtifactService/CreateArtifact", "UA"},
      {"WorkerService/RegisterWorker", "W"},
      {"WorkerService/LeaseJob", "W"},
      {"WorkerService/ReportJob", "W"},
      {"WorkerService/CompleteJob", "W"},
      {"WorkerService/FindResult", "W"},
      {"WorkerService/ReleaseJob", "W"},
      {"WorkerService/DeregisterWorker", "W"},
      {"CatalogService/ListWorkers", "RUA"},
      {"CatalogService/GetCatalog", "RUA"},
      {"AccessService/WhoAmI", "RUAW"},
      {"AccessService/CreateToken", "A"},
      {"AccessService/ListTokens", "A"},
      {"AccessService/RevokeToken", "A"},
      {"AccessService/PutSecret", "UA"},
      {"AccessService/ListSecrets", "RUA"},
      {"AccessService/DeleteSecret", "UA"},
  };
  return expected;
}

std::vector<const google::protobuf::MethodDescriptor*> Methods() {
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  const std::filesystem::path folder =
      std::filesystem::path(QUANTD_SOURCE_DIR) / "proto" / "quantd" / "v1";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".proto") continue;
    const auto* file = google::protobuf::DescriptorPool::generated_pool()->FindFileByName(
        "proto/quantd/v1/" + entry.path().filename().string());
    if (file == nullptr) continue;  // Not linked: has no service of the server's.
    for (int i = 0; i < file->service_count(); ++i) {
      for (int j = 0; j < file->service(i)->method_count(); ++j) {
        methods.push_back(file->service(i)->method(j));
      }
    }
  }
  return methods;
}

std::string ShortName(const google::protobuf::MethodDescriptor& method) {
  return absl::StrCat(method.service()->name(), "/", method.name());
}

// Sets the string at "lease.worker".
void SetField(google::protobuf::Message* message, const std::string& path,
              const std::string& value) {
  const std::vector<std::string> words = absl::StrSplit(path, '.');
  for (size_t i = 0; i < words.size(); ++i) {
    const auto* field = message->GetDescriptor()->FindFieldByName(words[i]);
    ASSERT_NE(field, nullptr) << path;
    if (i + 1 == words.size()) {
      message->GetReflection()->SetString(message, field, value);
    } else {
      message = message->GetReflection()->MutableMessage(message, field);
    }
  }
}

class AccessTest : public testing::Test {
 protected:
  AccessTest() : authority_("one authority") {
    char pattern[] = "/tmp/quantd_access_XXXXXX";
    folder_ = mkdtemp(pattern);
    ca_ = folder_ + "/ca.pem";
    authority_.WriteCa(ca_);
    authority_.Issue("DNS:localhost,IP:127.0.0.1", folder_ + "/cert.pem", folder_ + "/key.pem");
    options_.listen = "127.0.0.1:0";
    options_.metrics_listen = "off";
    options_.data = folder_ + "/data";
    options_.free_bytes_min = 0;
    options_.access.tokens = true;
    options_.access.tls = {.certificate = folder_ + "/cert.pem",
                           .key = folder_ + "/key.pem",
                           .reload = absl::Seconds(1)};
  }
  ~AccessTest() override {
    server_.reset();
    EXPECT_TRUE(RemoveTree(folder_).ok());
  }

  void Start() {
    auto server = Server::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    admin_ = *ReadTokenFile(options_.data + "/admin-token");
  }

  ConnectOptions With(const std::string& token) const {
    return {.address = server_->address(), .tls_ca = ca_, .token = token};
  }
  static std::shared_ptr<grpc::Channel> Channel(const ConnectOptions& options) {
    grpc::ChannelArguments arguments = ClientChannelArguments();
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // A connection of its own.
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    auto channel = Connect(options, arguments);
    EXPECT_TRUE(channel.ok()) << channel.status();
    return *channel;
  }
  static absl::StatusOr<v1::WhoAmIResponse> WhoAmI(const std::shared_ptr<grpc::Channel>& channel,
                                                   const std::string& header = "") {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
    if (!header.empty()) context.AddMetadata("authorization", header);
    v1::WhoAmIResponse response;
    const absl::Status status = FromGrpcStatus(
        v1::AccessService::NewStub(channel)->WhoAmI(&context, v1::WhoAmIRequest(), &response));
    if (!status.ok()) return status;
    return response;
  }
  absl::StatusOr<v1::CreateTokenResponse> Create(v1::Role role, const std::string& tenant,
                                                 const std::string& worker = "",
                                                 int64_t seconds = 3600) {
    v1::CreateTokenRequest request;
    request.mutable_token()->set_role(role);
    request.mutable_token()->set_tenant(tenant);
    request.mutable_token()->set_worker(worker);
    request.mutable_lifetime()->set_seconds(seconds);
    grpc::ClientContext context;
    v1::CreateTokenResponse response;
    const absl::Status status = FromGrpcStatus(v1::AccessService::NewStub(Channel(With(admin_)))
                                                   ->CreateToken(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
  std::string Token(v1::Role role, const std::string& tenant, const std::string& worker = "") {
    const auto made = Create(role, tenant, worker);
    EXPECT_TRUE(made.ok()) << made.status();
    return made->secret();
  }
  void Revoke(const std::string& token) {
    v1::RevokeTokenRequest request;
    request.set_name("tokens/" + token.substr(4, 12));
    grpc::ClientContext context;
    v1::Token response;
    const grpc::Status status = v1::AccessService::NewStub(Channel(With(admin_)))
                                    ->RevokeToken(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  std::string SubmitJob(const std::string& parent) {
    v1::SubmitJobRequest request;
    request.set_parent(parent);
    request.mutable_spec()->mutable_verify()->set_model("/models/tiny");
    grpc::ClientContext context;
    v1::SubmitJobResponse response;
    const grpc::Status status =
        v1::JobService::NewStub(Channel(With(admin_)))->SubmitJob(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job().name();
  }
  // Ended, so that a watch of it ends.
  void Cancel(const std::string& job) {
    v1::CancelJobRequest request;
    request.set_name(job);
    grpc::ClientContext context;
    v1::Job response;
    ASSERT_TRUE(v1::JobService::NewStub(Channel(With(admin_)))
                    ->CancelJob(&context, request, &response)
                    .ok());
  }
  std::string SubmitSweep(const std::string& parent) {
    v1::SubmitSweepRequest request;
    request.set_parent(parent);
    request.mutable_spec()->add_models("/models/tiny");
    request.mutable_spec()->add_variants()->set_method("rtn");
    request.mutable_spec()->add_tasks()->set_name("perplexity");
    grpc::ClientContext context;
    v1::SubmitSweepResponse response;
    const auto stub = v1::SweepService::NewStub(Channel(With(admin_)));
    const grpc::Status status = stub->SubmitSweep(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    v1::CancelSweepRequest cancel;
    cancel.set_name(response.sweep().name());
    grpc::ClientContext again;
    v1::Sweep sweep;
    EXPECT_TRUE(stub->CancelSweep(&again, cancel, &sweep).ok());
    return response.sweep().name();
  }

  // One call of any shape with one request message; what it ends with.
  static absl::Status Ask(const std::shared_ptr<grpc::Channel>& channel, const std::string& header,
                          const google::protobuf::MethodDescriptor& method,
                          const google::protobuf::Message& request) {
    grpc::GenericStub stub(channel);
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
    if (!header.empty()) context.AddMetadata("authorization", header);
    auto call = stub.PrepareCall(
        &context, absl::StrCat("/", method.service()->full_name(), "/", method.name()), &queue);
    const auto next = [&] {
      void* tag = nullptr;
      bool ok = false;
      EXPECT_TRUE(queue.Next(&tag, &ok));
      return ok;
    };
    const std::string bytes = request.SerializeAsString();
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer message(&slice, 1);
    call->StartCall(nullptr);
    next();
    call->WriteLast(message, grpc::WriteOptions(), nullptr);
    next();
    grpc::ByteBuffer reply;
    do {
      call->Read(&reply, nullptr);
    } while (next());
    grpc::Status status;
    call->Finish(&status, nullptr);
    next();
    queue.Shutdown();
    return FromGrpcStatus(status);
  }

  TestAuthority authority_;
  ServerOptions options_;
  std::string folder_, ca_, admin_;
  std::unique_ptr<Server> server_;
};

struct Credential {
  std::string name;
  std::string token;
  char role;  // Of Expected(); '-': nobody's.
  std::string tenant = {};
  std::string worker = {};
};

// Names what the policy looks at: of tenant t, of worker w1.
void Fill(const MethodPolicy& policy, const std::string& resource,
          google::protobuf::Message* request) {
  const std::string field(policy.field);
  if (policy.subject == Subject::kParent) SetField(request, field, "tenants/t");
  if (policy.subject == Subject::kResource) SetField(request, field, resource);
  if (policy.subject == Subject::kWorker) SetField(request, field, "workers/w1");
}

void CheckVerdict(const MethodPolicy& policy, const std::string& roles,
                  const Credential& credential, const absl::Status& status) {
  SCOPED_TRACE(absl::StrCat(std::string(policy.service), "/", std::string(policy.method), " as ",
                            credential.name, ": ", status.ToString()));
  const bool of_tenant = credential.tenant.empty() || credential.tenant == "t";
  const bool of_worker = credential.worker.empty() || credential.worker == "w1";
  if (credential.role == '-') {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
  } else if (!absl::StrContains(roles, std::string(1, credential.role)) ||
             (policy.subject == Subject::kParent && !of_tenant) ||
             (policy.subject == Subject::kWorker && !of_worker)) {
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  } else if (policy.subject == Subject::kResource && !of_tenant) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  } else {
    EXPECT_FALSE(absl::IsUnauthenticated(status));
    EXPECT_FALSE(absl::IsPermissionDenied(status));
    if (policy.subject == Subject::kResource && policy.method != "GetArtifact") {
      EXPECT_FALSE(absl::IsNotFound(status));
    }
  }
}

TEST_F(AccessTest, EveryMethodAgainstEveryCredential) {
  Start();
  const std::string job = SubmitJob("tenants/t"), others_job = SubmitJob("tenants/other");
  Cancel(job);
  Cancel(others_job);
  const std::string sweep = SubmitSweep("tenants/t");
  const auto expired = Create(v1::ADMIN, "", "", 1);
  const std::string revoked = Token(v1::ADMIN, "");
  Revoke(revoked);
  std::string swapped = Token(v1::ADMIN, "");
  swapped.replace(4, 12, admin_.substr(4, 12));  // One token's id with another's secret.
  const std::vector<Credential> credentials = {
      {"none", "", '-'},
      {"garbage", "letmein", '-'},
      {"swapped", swapped, '-'},
      {"expired", expired->secret(), '-'},
      {"revoked", revoked, '-'},
      {"first admin", admin_, 'A'},
      {"admin of t", Token(v1::ADMIN, "t"), 'A', "t"},
      {"user of t", Token(v1::USER, "t"), 'U', "t"},
      {"user of all", Token(v1::USER, ""), 'U'},
      {"user of other", Token(v1::USER, "other"), 'U', "other"},
      {"admin of other", Token(v1::ADMIN, "other"), 'A', "other"},
      {"reader of t", Token(v1::READER, "t"), 'R', "t"},
      {"worker", Token(v1::WORKER, ""), 'W'},
      {"worker w1", Token(v1::WORKER, "", "w1"), 'W', "", "w1"},
      {"worker w2", Token(v1::WORKER, "", "w2"), 'W', "", "w2"},
  };
  absl::SleepFor(absl::Milliseconds(1100));  // The short-lived one ends.

  // All credentials over one connection, one after the other.
  const auto channel = Channel(With(""));
  google::protobuf::DynamicMessageFactory factory;
  std::set<std::string> seen;
  int calls = 0;
  for (const auto* method : Methods()) {
    const std::string name = ShortName(*method);
    seen.insert(name);
    const auto expected = Expected().find(name);
    ASSERT_NE(expected, Expected().end())
        << name << " is new: say in this test and in server/auth/method_policy.cc who may call it";
    const MethodPolicy* policy = FindMethodPolicy(method->service()->full_name(), method->name());
    ASSERT_NE(policy, nullptr) << name << " has no row in server/auth/method_policy.cc";
    const std::unique_ptr<google::protobuf::Message> request(
        factory.GetPrototype(method->input_type())->New());
    const std::string resource = absl::StrContains(name, "Sweep")    ? sweep
                                 : absl::StrContains(name, "Secret") ? "tenants/t/secrets/HF_TOKEN"
                                                                     : job;
    Fill(*policy, resource, request.get());
    for (const Credential& credential : credentials) {
      const std::string header = credential.token.empty() ? "" : "Bearer " + credential.token;
      const absl::Status status = Ask(channel, header, *method, *request);
      ++calls;
      CheckVerdict(*policy, expected->second, credential, status);
    }
  }
  for (const auto& [name, roles] : Expected()) {
    EXPECT_EQ(seen.count(name), 1u) << name << " is no method any more";
  }
  for (const MethodPolicy& policy : MethodPolicies()) {
    const std::string service(policy.service.substr(policy.service.rfind('.') + 1));
    EXPECT_EQ(seen.count(absl::StrCat(service, "/", std::string(policy.method))), 1u);
  }
  EXPECT_GE(calls, 400);
  RecordProperty("calls", calls);
}

TEST_F(AccessTest, AnotherTenantsJobIsLikeOneThatIsNotThere) {
  Start();
  const std::string there = SubmitJob("tenants/other");
  std::string missing = there;
  missing.back() = missing.back() == 'a' ? 'b' : 'a';
  const auto channel = Channel(With(Token(v1::USER, "t")));
  std::vector<std::string> answers;
  for (const std::string& name : {there, missing}) {
    v1::GetJobRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    v1::Job job;
    const grpc::Status status = v1::JobService::NewStub(channel)->GetJob(&context, request, &job);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
    std::string words = status.error_message() + status.error_details();
    while (absl::StrContains(words, name)) words.erase(words.find(name), name.size());
    answers.push_back(words);
  }
  EXPECT_EQ(answers[0], answers[1]);
}

TEST_F(AccessTest, TwoUsersOnOneConnectionStayThemselves) {
  Start();
  const auto channel = Channel(With(""));
  const std::string alice = Token(v1::USER, "alice"), bob = Token(v1::USER, "bob");
  std::vector<std::thread> threads;
  for (const auto& [tenant, token] : {std::pair("alice", alice), std::pair("bob", bob)}) {
    threads.emplace_back([&, tenant = std::string(tenant), token = token] {
      for (int i = 0; i < 100; ++i) {
        const auto who = WhoAmI(channel, "Bearer " + token);
        ASSERT_TRUE(who.ok()) << who.status();
        ASSERT_EQ(who->token().tenant(), tenant);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(absl::IsUnauthenticated(WhoAmI(channel).status())) << "no identity is left behind";
  // Two headers in one call: nobody can tell which one is meant.
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + alice);
  context.AddMetadata("authorization", "Bearer " + bob);
  v1::WhoAmIResponse response;
  EXPECT_EQ(v1::AccessService::NewStub(channel)
                ->WhoAmI(&context, v1::WhoAmIRequest(), &response)
                .error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(AccessTest, ARevokedTokensWatchEnds) {
  Start();
  const std::string job = SubmitJob("tenants/t");
  const std::string token = Token(v1::READER, "t");
  v1::WatchJobRequest request;
  request.set_name(job);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(20)));
  auto reader = v1::JobService::NewStub(Channel(With(token)))->WatchJob(&context, request);
  v1::JobEvent event;
  ASSERT_TRUE(reader->Read(&event));
  Revoke(token);
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(AccessTest, SecretsReachTheWorkerThatLeasesTheJobAndNobodyElse) {
  Start();
  const auto user = Channel(With(Token(v1::USER, "t")));
  const auto access = v1::AccessService::NewStub(user);
  const std::string value = "hf_abcdefghijklmnopqrstuvwxyz012345";
  v1::PutSecretRequest put;
  put.set_name("tenants/t/secrets/HF_TOKEN");
  put.set_value(value);
  {
    grpc::ClientContext context;
    v1::Secret secret;
    ASSERT_TRUE(access->PutSecret(&context, put, &secret).ok());
  }
  const auto submit = [&](v1::SubmitJobRequest request) {
    grpc::ClientContext context;
    v1::SubmitJobResponse response;
    request.set_parent("tenants/t");
    const absl::Status status =
        FromGrpcStatus(v1::JobService::NewStub(user)->SubmitJob(&context, request, &response));
    return std::pair(status, response.job().name());
  };
  v1::SubmitJobRequest request;
  request.mutable_spec()->mutable_verify()->set_model("org/name");
  request.mutable_spec()->add_secrets("AWS_ACCESS_KEY_ID");
  EXPECT_THAT(std::string(submit(request).first.message()), HasSubstr("there is no secret"));
  request.mutable_spec()->set_secrets(0, "LD_PRELOAD");
  EXPECT_THAT(std::string(submit(request).first.message()), HasSubstr("spec.secrets[0]"));
  request.mutable_spec()->set_secrets(0, "HF_TOKEN");
  (*request.mutable_spec()->mutable_labels())["oops"] = value;
  const absl::Status leaking = submit(request).first;
  EXPECT_THAT(std::string(leaking.message()), HasSubstr("looks like a credential"));
  EXPECT_THAT(leaking.ToString(), Not(HasSubstr(value)));
  request.mutable_spec()->clear_labels();
  const auto [status, job] = submit(request);
  ASSERT_TRUE(status.ok()) << status;

  const auto workers = v1::WorkerService::NewStub(Channel(With(Token(v1::WORKER, "", "w"))));
  v1::RegisterWorkerRequest registration;
  registration.mutable_worker()->set_name("workers/w");
  registration.mutable_worker()->mutable_catalog()->add_kinds("verify");
  registration.mutable_worker()->mutable_catalog()->add_devices()->set_type("cpu");
  registration.set_instance_id("i");
  {
    grpc::ClientContext context;
    v1::RegisterWorkerResponse response;
    ASSERT_TRUE(workers->RegisterWorker(&context, registration, &response).ok());
  }
  v1::LeaseJobRequest poll;
  poll.set_worker("workers/w");
  poll.set_instance_id("i");
  poll.set_request_id("p");
  grpc::ClientContext context;
  v1::LeaseJobResponse lease;
  ASSERT_TRUE(workers->LeaseJob(&context, poll, &lease).ok());
  ASSERT_EQ(lease.lease().job(), job);
  EXPECT_EQ(lease.secrets().at("HF_TOKEN"), value);

  // Neither the database nor the audit log holds it, nor any token.
  server_.reset();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(options_.data)) {
    if (!entry.is_regular_file() || entry.path().filename() == "admin-token") continue;
    const auto bytes = ReadFile(entry.path().string());
    ASSERT_TRUE(bytes.ok());
    EXPECT_FALSE(absl::StrContains(*bytes, value)) << entry.path();
    EXPECT_FALSE(absl::StrContains(*bytes, admin_.substr(17))) << entry.path();
  }
  const std::string audit = *ReadFile(options_.data + "/audit.log");
  EXPECT_THAT(audit, HasSubstr("quantd.v1.AccessService/PutSecret"));
  EXPECT_THAT(audit, HasSubstr("tenants/t/secrets/HF_TOKEN"));
  EXPECT_THAT(audit, Not(HasSubstr("LeaseJob")));
}

TEST_F(AccessTest, TlsChecksNamesAndAuthorities) {
  Start();
  EXPECT_TRUE(WhoAmI(Channel(With(admin_))).ok());
  ConnectOptions plain = With("");
  plain.tls_ca.clear();
  EXPECT_TRUE(absl::IsUnavailable(WhoAmI(Channel(plain)).status())) << "plaintext";
  const TestAuthority stranger("a stranger");
  stranger.WriteCa(folder_ + "/stranger.pem");
  ConnectOptions other = With(admin_);
  other.tls_ca = folder_ + "/stranger.pem";
  EXPECT_TRUE(absl::IsUnavailable(WhoAmI(Channel(other)).status())) << "another authority";
  ConnectOptions renamed = With(admin_);
  renamed.tls_server_name = "example.org";
  EXPECT_TRUE(absl::IsUnavailable(WhoAmI(Channel(renamed)).status())) << "another name";
  renamed.tls_server_name = "localhost";
  EXPECT_TRUE(WhoAmI(Channel(renamed)).ok());
}

TEST_F(AccessTest, ANewCertificateIsFollowedWithoutARestart) {
  Start();
  const TestAuthority next("the next authority");
  const std::string next_ca = folder_ + "/next.pem";
  next.WriteCa(next_ca);
  ConnectOptions with_next = With(admin_);
  with_next.tls_ca = next_ca;
  ASSERT_FALSE(WhoAmI(Channel(with_next)).ok());
  const auto before = Channel(With(admin_));
  ASSERT_TRUE(WhoAmI(before).ok());
  next.Issue("IP:127.0.0.1", folder_ + "/cert.pem", folder_ + "/key.pem");
  bool followed = false;
  for (int i = 0; i < 60 && !followed; ++i) {
    absl::SleepFor(absl::Milliseconds(250));
    followed = WhoAmI(Channel(with_next)).ok();
  }
  EXPECT_TRUE(followed);
  EXPECT_TRUE(WhoAmI(before).ok()) << "open connections stay";
  EXPECT_FALSE(WhoAmI(Channel(With(admin_))).ok()) << "the old certificate is gone";
}

TEST_F(AccessTest, WithAClientAuthorityNobodyGetsInWithoutACertificate) {
  options_.access.tls.client_ca = ca_;
  Start();
  EXPECT_TRUE(absl::IsUnavailable(WhoAmI(Channel(With(admin_))).status()));
  ConnectOptions mutual = With(admin_);
  mutual.tls_cert = folder_ + "/client.pem";
  mutual.tls_key = folder_ + "/client-key.pem";
  authority_.Issue("DNS:client", mutual.tls_cert, mutual.tls_key);
  const auto who = WhoAmI(Channel(mutual));
  ASSERT_TRUE(who.ok()) << who.status();
  EXPECT_EQ(who->token().role(), v1::ADMIN) << "the token says who it is, not the certificate";
  mutual.token.clear();
  EXPECT_TRUE(absl::IsUnauthenticated(WhoAmI(Channel(mutual)).status()));
  const TestAuthority stranger("a stranger");
  stranger.Issue("DNS:client", mutual.tls_cert, mutual.tls_key);
  EXPECT_TRUE(absl::IsUnavailable(WhoAmI(Channel(mutual)).status()));
  authority_.Issue("DNS:client", mutual.tls_cert, mutual.tls_key, -absl::Hours(1));
  EXPECT_TRUE(absl::IsUnavailable(WhoAmI(Channel(mutual)).status())) << "expired";
}

TEST_F(AccessTest, OurOwnWorkerComesInThroughTheDataFolder) {
  Start();
  const auto channel =
      Channel({.address = server_->worker_address(), .token = server_->worker_token()});
  const auto who = WhoAmI(channel);
  ASSERT_TRUE(who.ok()) << who.status();
  EXPECT_EQ(who->token().role(), v1::WORKER);
  EXPECT_TRUE(
      absl::IsUnauthenticated(WhoAmI(Channel({.address = server_->worker_address()})).status()));
}

TEST_F(AccessTest, ATokenDoesNotTravelInTheClear) {
  for (const char* address : {"10.0.0.7:7717", "example.org:7717", "0.0.0.0:1"}) {
    const auto refused = Connect({.address = address, .token = "qdt_x"}, grpc::ChannelArguments());
    EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << address;
    EXPECT_TRUE(Connect({.address = address, .tls = true, .token = "t"}, {}).ok());
    EXPECT_TRUE(Connect({.address = address, .token = "t", .insecure = true}, {}).ok());
  }
  EXPECT_TRUE(Connect({.address = "127.0.0.1:1", .token = "t"}, {}).ok());
  EXPECT_FALSE(Connect({.address = "127.0.0.1:1", .token = "a\nb"}, {}).ok());
  EXPECT_FALSE(Connect({.address = "127.0.0.1:1", .tls_ca = "/no/such/file"}, {}).ok());
  EXPECT_FALSE(Connect({.address = "127.0.0.1:1", .tls_cert = ca_}, {}).ok());
  EXPECT_FALSE(Connect({.address = "127.0.0.1:1", .token_file = "/no/such/file"}, {}).ok());
}

}  // namespace
}  // namespace quantd
