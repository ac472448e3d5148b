// quantctl's side of access: where a token comes from, when it is not sent, and that neither it nor
// a secret's value shows.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/file.h"
#include "client/testing.h"
#include "proto/quantd/v1/access.grpc.pb.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Answers, and keeps the header and the requests.
class FakeAccess final : public v1::AccessService::Service {
 public:
  FakeAccess() {
    grpc::ServerBuilder builder;
    ApplyServerArguments(&builder);
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  grpc::Status WhoAmI(grpc::ServerContext* context, const v1::WhoAmIRequest*,
                      v1::WhoAmIResponse* response) override {
    const auto found = context->client_metadata().find("authorization");
    header = found == context->client_metadata().end()
                 ? "none"
                 : std::string(found->second.data(), found->second.size());
    response->set_tokens_required(true);
    response->mutable_token()->set_name("tokens/abc");
    response->mutable_token()->set_role(v1::USER);
    response->mutable_token()->set_tenant("t");
    return grpc::Status::OK;
  }
  grpc::Status CreateToken(grpc::ServerContext*, const v1::CreateTokenRequest* request,
                           v1::CreateTokenResponse* response) override {
    created = *request;
    *response->mutable_token() = request->token();
    response->mutable_token()->set_name("tokens/abc");
    response->set_secret("qdt_abc_secret");
    return grpc::Status::OK;
  }
  grpc::Status ListTokens(grpc::ServerContext*, const v1::ListTokensRequest*,
                          v1::ListTokensResponse* response) override {
    response->add_tokens()->set_name("tokens/abc");
    response->mutable_tokens(0)->mutable_revoke_time()->set_seconds(1'800'000'000);
    return grpc::Status::OK;
  }
  grpc::Status RevokeToken(grpc::ServerContext*, const v1::RevokeTokenRequest* request,
                           v1::Token* response) override {
    if (request->name() != "tokens/abc") return {grpc::StatusCode::NOT_FOUND, "no such token"};
    response->set_name(request->name());
    return grpc::Status::OK;
  }
  grpc::Status PutSecret(grpc::ServerContext*, const v1::PutSecretRequest* request,
                         v1::Secret* response) override {
    secret = *request;
    response->set_name(request->name());
    return grpc::Status::OK;
  }

  std::string header;
  v1::CreateTokenRequest created;
  v1::PutSecretRequest secret;

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

class AccessClientTest : public testing::Test {
 protected:
  AccessClientTest() {
    char pattern[] = "/tmp/quantd_client_XXXXXX";
    folder_ = mkdtemp(pattern);
  }
  ~AccessClientTest() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  ClientRun Run(std::vector<std::string> words, std::map<std::string, std::string> variables = {}) {
    variables.insert({"QUANTD_SCHEDULER", server_.address()});
    variables.insert({"XDG_CONFIG_HOME", folder_});
    return RunQuantctl(words, variables);
  }

  std::string folder_;
  FakeAccess server_;
};

TEST_F(AccessClientTest, ATokenComesFromTheEnvironmentAFileOrTheSettings) {
  EXPECT_EQ(Run({"tokens", "whoami"}).exit_code, kExitOk);
  EXPECT_EQ(server_.header, "none");
  Run({"tokens", "whoami"}, {{"QUANTD_TOKEN", "qdt_env"}});
  EXPECT_EQ(server_.header, "Bearer qdt_env");
  const std::string file = folder_ + "/some-token";
  ASSERT_TRUE(WriteFileAtomic(file, "# for the lab\nqdt_file\n").ok());
  Run({"tokens", "whoami", "--token-file", file}, {{"QUANTD_TOKEN", "qdt_env"}});
  EXPECT_EQ(server_.header, "Bearer qdt_file") << "a flag wins";
  Run({"tokens", "whoami"}, {{"QUANTD_TOKEN_FILE", file}});
  EXPECT_EQ(server_.header, "Bearer qdt_file");

  ASSERT_TRUE(MakeFolders(folder_ + "/quantd").ok());
  const std::string usual = folder_ + "/quantd/token";
  ASSERT_TRUE(WriteFileAtomic(usual, "qdt_usual\n").ok());
  chmod(usual.c_str(), 0644);
  const ClientRun open = Run({"tokens", "whoami"});
  EXPECT_NE(open.exit_code, kExitOk);
  EXPECT_THAT(open.err, HasSubstr("others can read"));
  chmod(usual.c_str(), 0600);
  const ClientRun who = Run({"tokens", "whoami"});
  EXPECT_EQ(server_.header, "Bearer qdt_usual");
  EXPECT_THAT(who.out, HasSubstr("tokens/abc: user of t"));
}

TEST_F(AccessClientTest, ATokenIsNotSentInTheClearToAnotherMachine) {
  const ClientRun run = RunQuantctl({"tokens", "whoami", "--scheduler", "10.255.255.1:7717"},
                                    {{"QUANTD_TOKEN", "qdt_do_not_show"}});
  EXPECT_EQ(run.exit_code, kExitUsage);
  EXPECT_THAT(run.err, HasSubstr("in the clear"));
  EXPECT_THAT(run.err + run.out, Not(HasSubstr("do_not_show")));
}

TEST_F(AccessClientTest, TokensAreMadeShownOnceAndRevoked) {
  const ClientRun made =
      Run({"tokens", "create", "--role", "user", "--tenant", "t", "--days", "2", "--name", "Ada"});
  EXPECT_EQ(made.exit_code, kExitOk) << made.err;
  EXPECT_EQ(made.out, "qdt_abc_secret\n") << "nothing else, for scripts";
  EXPECT_EQ(server_.created.token().tenant(), "t");
  EXPECT_EQ(server_.created.lifetime().seconds(), 2 * 24 * 3600);
  const std::string file = folder_ + "/out";
  const ClientRun kept = Run({"tokens", "create", "--role", "worker", "--worker", "w", "-o", file});
  EXPECT_EQ(kept.exit_code, kExitOk) << kept.err;
  EXPECT_THAT(kept.out + kept.err, Not(HasSubstr("qdt_abc_secret")));
  EXPECT_EQ(*ReadFile(file), "qdt_abc_secret\n");
  struct stat status = {};
  ASSERT_EQ(stat(file.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(server_.created.token().tenant(), "");
  EXPECT_EQ(server_.created.token().worker(), "w");
  EXPECT_EQ(Run({"tokens", "create", "--role", "king"}).exit_code, kExitUsage);
  EXPECT_THAT(Run({"tokens", "list"}).out, HasSubstr("revoked 2027-01-15"));
  EXPECT_EQ(Run({"tokens", "revoke", "abc"}).exit_code, kExitOk);
  EXPECT_EQ(Run({"tokens", "revoke", "xyz"}).exit_code, kExitNotFound);
}

TEST_F(AccessClientTest, ASecretsValueComesFromAnywhereButTheCommandLine) {
  const ClientRun put = Run({"secrets", "put", "HF_TOKEN", "--from-env", "MINE", "--tenant", "t"},
                            {{"MINE", "the-value\n"}});
  EXPECT_EQ(put.exit_code, kExitOk) << put.err;
  EXPECT_EQ(server_.secret.name(), "tenants/t/secrets/HF_TOKEN");
  EXPECT_EQ(server_.secret.value(), "the-value");
  EXPECT_THAT(put.out + put.err, Not(HasSubstr("the-value")));
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/value", "from a file").ok());
  EXPECT_EQ(Run({"secrets", "put", "HF_TOKEN", "--from-file", folder_ + "/value"}).exit_code,
            kExitOk);
  EXPECT_EQ(server_.secret.value(), "from a file");
  EXPECT_EQ(Run({"secrets", "put", "HF_TOKEN", "--from-env", "UNSET"}).exit_code, kExitUsage);
}

}  // namespace
}  // namespace quantd
