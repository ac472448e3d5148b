// Tokens, the guard's decisions, sealed secrets, the audit log, and what is said about bad TLS
// files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "proto/errors.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/worker.pb.h"
#include "server/auth/audit_log.h"
#include "server/auth/guard.h"
#include "server/auth/secret_keeper.h"
#include "server/auth/testing.h"
#include "server/auth/tls.h"
#include "server/auth/token_book.h"
#include "server/store/sqlite_job_store.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);
const Identity kAdmin = {.name = "tokens/root", .role = v1::ADMIN};

class AuthTest : public testing::Test {
 protected:
  AuthTest() {
    char pattern[] = "/tmp/quantd_auth_XXXXXX";
    folder_ = mkdtemp(pattern);
    auto store = OpenSqliteJobStore({.path = folder_ + "/store.db"});
    EXPECT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  ~AuthTest() override {
    store_.reset();
    EXPECT_TRUE(RemoveTree(folder_).ok());
  }

  static v1::CreateTokenRequest Request(v1::Role role, const std::string& tenant,
                                        const std::string& worker = "") {
    v1::CreateTokenRequest request;
    request.mutable_token()->set_role(role);
    request.mutable_token()->set_tenant(tenant);
    request.mutable_token()->set_worker(worker);
    return request;
  }
  static std::string Make(TokenBook& book, v1::Role role, const std::string& tenant,
                          const std::string& worker = "") {
    const auto made = book.Create(Request(role, tenant, worker), kAdmin, kNow);
    EXPECT_TRUE(made.ok()) << made.status();
    return made->secret();
  }
  static std::string ReasonFor(const TokenBook& book, const std::string& header,
                               absl::Time now = kNow) {
    const auto identity = book.Identify(header, now);
    return identity.ok() ? "let in" : ReasonOf(identity.status());
  }

  std::string folder_;
  std::unique_ptr<JobStore> store_;
};

TEST_F(AuthTest, ATokenStandsForItsRoleAndTenantUntilItEnds) {
  TokenBook book(store_.get());
  const auto made = book.Create(Request(v1::USER, "vision"), kAdmin, kNow);
  ASSERT_TRUE(made.ok()) << made.status();
  const std::string header = "Bearer " + made->secret();
  const auto identity = book.Identify(header, kNow);
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->name, made->token().name());
  EXPECT_EQ(identity->role, v1::USER);
  EXPECT_EQ(identity->tenant, "vision");
  EXPECT_EQ(made->token().creator(), "tokens/root");

  EXPECT_EQ(ReasonFor(book, ""), kReasonTokenMissing);
  for (const std::string& bad :
       {made->secret(), header.substr(0, header.size() - 1), header + "A", header + " x",
        std::string("Bearer "), std::string("Bearer qdt_"), std::string("Basic cm9vdDpyb290"),
        "Bearer qdt_000000000000" + made->secret().substr(16), std::string(100'000, 'a'),
        std::string("Bearer qdt_\0x", 13)}) {
    EXPECT_EQ(ReasonFor(book, bad), kReasonTokenUnknown) << bad.substr(0, 80);
  }
  EXPECT_EQ(ReasonFor(book, header, kNow + absl::Hours(24 * 91)), kReasonTokenExpired);

  EXPECT_TRUE(absl::IsNotFound(book.Revoke("tokens/nope", kAdmin, kNow).status()));
  ASSERT_TRUE(book.Revoke(made->token().name(), kAdmin, kNow).ok());
  EXPECT_EQ(ReasonFor(book, header), kReasonTokenRevoked);
  EXPECT_EQ(ReasonOf(book.Recheck(*identity, kNow)), kReasonTokenRevoked);
}

TEST_F(AuthTest, TheStoreHoldsNoTokenAndASecondSchedulerKnowsThemAll) {
  TokenBook first(store_.get()), second(store_.get());
  const std::string token = Make(first, v1::READER, "");
  EXPECT_EQ(ReasonFor(second, "Bearer " + token), kReasonTokenUnknown);
  ASSERT_TRUE(second.Refresh(kNow).ok());
  EXPECT_EQ(ReasonFor(second, "Bearer " + token), "let in");
  const std::string id = token.substr(4, 12);
  ASSERT_TRUE(first.Revoke("tokens/" + id, kAdmin, kNow).ok());
  ASSERT_TRUE(second.Refresh(kNow).ok());
  EXPECT_EQ(ReasonFor(second, "Bearer " + token), kReasonTokenRevoked);
  // Ended long ago: forgotten, here and in the store.
  ASSERT_TRUE(second.Refresh(kNow + absl::Hours(24 * 40)).ok());
  EXPECT_EQ(second.size(), 0);
  store_.reset();
  for (const char* name : {"/store.db", "/store.db-wal"}) {
    const auto bytes = ReadFile(folder_ + name);
    if (!bytes.ok()) continue;
    EXPECT_THAT(*bytes, Not(HasSubstr(token.substr(17)))) << name;
  }
}

TEST_F(AuthTest, FilesGiveTokensAndFollowARotation) {
  const std::string admin = folder_ + "/admin", worker = folder_ + "/worker";
  ASSERT_TRUE(MakeTokenFile(admin).ok());
  struct stat file = {};
  ASSERT_EQ(stat(admin.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  const std::string first = ReadFile(admin)->substr(0, ReadFile(admin)->find('\n'));
  ASSERT_TRUE(MakeTokenFile(admin).ok());
  EXPECT_THAT(*ReadFile(admin), HasSubstr(first)) << "an existing file stays";
  const NewToken second = *MakeToken();
  ASSERT_TRUE(WriteFileAtomic(worker, "# workers of the lab\n\n" + second.text + "\n").ok());
  TokenBook book(store_.get(), {.admin = admin, .worker = worker});
  ASSERT_TRUE(book.Refresh(kNow).ok());
  EXPECT_EQ(book.Identify("Bearer " + first, kNow)->role, v1::ADMIN);
  EXPECT_EQ(book.Identify("Bearer " + second.text, kNow)->role, v1::WORKER);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(book.Revoke("tokens/" + second.id, kAdmin, kNow).status()));
  const NewToken third = *MakeToken();
  ASSERT_TRUE(WriteFileAtomic(worker, third.text + "\n").ok());
  ASSERT_TRUE(book.Refresh(kNow).ok());
  EXPECT_EQ(ReasonFor(book, "Bearer " + second.text), kReasonTokenUnknown);
  EXPECT_EQ(ReasonFor(book, "Bearer " + third.text), "let in");
  // A file that is damaged for now locks nobody out.
  ASSERT_TRUE(WriteFileAtomic(worker, "hello\n").ok());
  EXPECT_THAT(std::string(book.Refresh(kNow).message()), HasSubstr("--new-token"));
  EXPECT_EQ(ReasonFor(book, "Bearer " + third.text), "let in");
}

TEST_F(AuthTest, ATenantsAdministratorStaysInsideTheTenant) {
  TokenBook book(store_.get());
  const Identity local = {.name = "tokens/t", .role = v1::ADMIN, .tenant = "t"};
  const std::string others = Make(book, v1::USER, "other");
  const auto mine = book.Create(Request(v1::ADMIN, "t"), local, kNow);
  ASSERT_TRUE(mine.ok()) << mine.status();
  for (const auto& request : {Request(v1::USER, ""), Request(v1::USER, "other"),
                              Request(v1::WORKER, ""), Request(v1::ADMIN, "")}) {
    EXPECT_TRUE(absl::IsPermissionDenied(book.Create(request, local, kNow).status()))
        << request.ShortDebugString();
  }
  ASSERT_EQ(book.List(local).size(), 1u);
  EXPECT_EQ(book.List(local)[0].name(), mine->token().name());
  EXPECT_EQ(book.List(kAdmin).size(), 2u);
  EXPECT_TRUE(
      absl::IsNotFound(book.Revoke("tokens/" + others.substr(4, 12), local, kNow).status()));
}

TEST_F(AuthTest, NonsensicalTokensAreNotMade) {
  TokenBook book(store_.get());
  v1::CreateTokenRequest long_lived = Request(v1::USER, "t");
  long_lived.mutable_lifetime()->set_seconds(int64_t{11} * 366 * 24 * 3600);
  v1::CreateTokenRequest dead = Request(v1::USER, "t");
  dead.mutable_lifetime()->set_seconds(0);
  for (const auto& request :
       {Request(v1::ROLE_UNSPECIFIED, "t"), Request(static_cast<v1::Role>(99), "t"),
        Request(v1::USER, "../x"), Request(v1::USER, "t", "w"), Request(v1::WORKER, "t"),
        Request(v1::WORKER, "", "a/b"), long_lived, dead}) {
    EXPECT_TRUE(absl::IsInvalidArgument(book.Create(request, kAdmin, kNow).status()))
        << request.ShortDebugString();
  }
  EXPECT_EQ(book.size(), 0);
}

TEST_F(AuthTest, TheGuardLooksAtWhatTheRequestNames) {
  TokenBook book(store_.get());
  const Guard guard(&book);
  const std::string user = "Bearer " + Make(book, v1::USER, "t");
  const std::string of_default = "Bearer " + Make(book, v1::USER, "default");
  const std::string worker = "Bearer " + Make(book, v1::WORKER, "", "gpu-1");
  const auto submit = [&](const std::string& token, const std::string& parent) {
    v1::SubmitJobRequest request;
    request.set_parent(parent);
    Admission admission;
    return guard.Admit(token, "quantd.v1.JobService", "SubmitJob", &request, kNow, &admission);
  };
  EXPECT_TRUE(submit(user, "tenants/t").ok());
  EXPECT_TRUE(submit(of_default, "").ok());
  for (const char* parent : {"", "tenants/tt", "tenants/", "t", "tenants/T", "/tenants/t",
                             "tenants/other", "tenants/other/../t"}) {
    EXPECT_EQ(ReasonOf(submit(user, parent)), kReasonTenant) << parent;
  }
  const auto get = [&](const std::string& name) {
    v1::GetJobRequest request;
    request.set_name(name);
    Admission admission;
    return guard.Admit(user, "quantd.v1.JobService", "GetJob", &request, kNow, &admission);
  };
  EXPECT_TRUE(get("tenants/t/jobs/a").ok());
  for (const char* name : {"tenants/tt/jobs/a", "jobs/a", "a", "", "tenants/other/jobs/a"}) {
    EXPECT_TRUE(absl::IsNotFound(get(name))) << name;
  }
  const auto report = [&](const std::string& name) {
    v1::ReportJobRequest request;
    request.mutable_lease()->set_worker(name);
    Admission admission;
    return guard.Admit(worker, "quantd.v1.WorkerService", "ReportJob", &request, kNow, &admission);
  };
  EXPECT_TRUE(report("workers/gpu-1").ok());
  EXPECT_TRUE(report("workers/gpu-1-2").ok());
  for (const char* name : {"workers/gpu-10", "workers/gpu-1-", "workers/gpu-1-1",
                           "workers/gpu-1-02", "workers/gpu-1-x", "workers/gpu-2", "gpu-1", ""}) {
    EXPECT_EQ(ReasonOf(report(name)), kReasonWorker) << name;
  }
  Admission admission;
  EXPECT_TRUE(absl::IsPermissionDenied(
      guard.Admit(user, "quantd.v1.JobService", "DropEverything", nullptr, kNow, &admission)));
}

TEST_F(AuthTest, SecretsAreSealedAndBoundToTheirName) {
  SecretKeeper keeper(store_.get(), "installation");
  v1::PutSecretRequest put;
  put.set_name("tenants/t/secrets/HF_TOKEN");
  put.set_value("hf_this_is_the_value_1234567890");
  ASSERT_TRUE(keeper.Put(put, kNow).ok());
  EXPECT_EQ(keeper.Open("t", {"HF_TOKEN"})->at("HF_TOKEN"), put.value());
  EXPECT_TRUE(absl::IsNotFound(keeper.Open("other", {"HF_TOKEN"}).status()));
  EXPECT_TRUE(
      absl::IsDataLoss(SecretKeeper(store_.get(), "another key").Open("t", {"HF_TOKEN"}).status()));
  put.set_value("a new one");
  ASSERT_TRUE(keeper.Put(put, kNow).ok());
  EXPECT_EQ(keeper.Open("t", {"HF_TOKEN"})->at("HF_TOKEN"), "a new one");
  ASSERT_EQ(keeper.List("t")->size(), 1u);
  for (const char* bad : {"tenants/t/secrets/LD_PRELOAD", "tenants/t/secrets/PATH", "HF_TOKEN",
                          "tenants/t/secrets/QUANTD_SECRET_", "tenants/../secrets/HF_TOKEN",
                          "tenants/t/secrets/QUANTD_SECRET_a b", "tenants/t/jobs/HF_TOKEN"}) {
    put.set_name(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(keeper.Put(put, kNow).status())) << bad;
  }
  put.set_name("tenants/t/secrets/QUANTD_SECRET_X2");
  for (const std::string& bad :
       {std::string(), std::string(20'000, 'x'), std::string("a\0b", 3), std::string("\xff")}) {
    put.set_value(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(keeper.Put(put, kNow).status()));
  }
  ASSERT_TRUE(keeper.Delete("tenants/t/secrets/HF_TOKEN").ok());
  EXPECT_EQ(keeper.List("t")->size(), 0u);

  const std::string key(32, 'k');
  const std::string sealed = *Seal(key, "name", "value");
  EXPECT_THAT(sealed, Not(HasSubstr("value")));
  EXPECT_NE(sealed, *Seal(key, "name", "value"));
  EXPECT_EQ(*Unseal(key, "name", sealed), "value");
  EXPECT_TRUE(absl::IsDataLoss(Unseal(key, "other", sealed).status()));
  for (size_t i = 0; i < sealed.size(); ++i) {
    std::string damaged = sealed;
    damaged[i] ^= 1;
    EXPECT_TRUE(absl::IsDataLoss(Unseal(key, "name", damaged).status())) << i;
    EXPECT_TRUE(absl::IsDataLoss(Unseal(key, "name", sealed.substr(0, i)).status())) << i;
  }
}

TEST_F(AuthTest, TheAuditLogIsPrivateKeepsLinesWholeAndFollowsAMove) {
  const std::string path = folder_ + "/audit.log";
  const auto log = AuditLog::Open(path);
  ASSERT_TRUE(log.ok()) << log.status();
  (*log)->Write({.time = kNow,
                 .caller = "tokens/a",
                 .method = "M",
                 .code = "OK",
                 .message = "quote \" and\nnewline"});
  ASSERT_EQ(rename(path.c_str(), (path + ".1").c_str()), 0);
  (*log)->Write({.time = kNow, .caller = "tokens/b", .code = "UNAUTHENTICATED"});
  EXPECT_EQ(*ReadFile(path + ".1"),
            "{\"time\":\"2027-01-15T08:00:00.000Z\",\"caller\":\"tokens/a\",\"method\":\"M\","
            "\"code\":\"OK\",\"message\":\"quote \\\" and\\nnewline\"}\n");
  EXPECT_THAT(*ReadFile(path), HasSubstr("tokens/b"));
  struct stat file = {};
  ASSERT_EQ(stat(path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  EXPECT_FALSE(AuditLog::Open(folder_ + "/no/such/folder/audit.log").ok());
}

TEST_F(AuthTest, BadTlsFilesAreNamed) {
  const TestAuthority authority("authority");
  const std::string cert = folder_ + "/cert", key = folder_ + "/key", other = folder_ + "/other";
  authority.Issue("DNS:localhost", cert, key);
  authority.Issue("DNS:localhost", other, other);  // Only the certificate stays.
  EXPECT_TRUE(MakeServerCredentials({}).ok());
  EXPECT_TRUE(MakeServerCredentials({.certificate = cert, .key = key}).ok());
  const auto words = [](const TlsFiles& files) {
    return std::string(MakeServerCredentials(files).status().message());
  };
  EXPECT_THAT(words({.certificate = cert, .key = folder_ + "/none"}), HasSubstr("/none"));
  EXPECT_THAT(words({.certificate = key, .key = key}), HasSubstr("holds no certificate"));
  EXPECT_THAT(words({.certificate = cert, .key = cert}), HasSubstr("holds no private key"));
  EXPECT_THAT(words({.certificate = other, .key = key}), HasSubstr("is not that of"));
  EXPECT_THAT(words({.certificate = cert, .key = key, .client_ca = key}),
              HasSubstr("holds no certificate"));
  const absl::Duration left = *CertificateExpiry(cert) - absl::Now();
  EXPECT_GT(left, absl::Minutes(55));
  EXPECT_LT(left, absl::Minutes(65));
}

}  // namespace
}  // namespace quantd
