// Each check against something that is really so: a scheduler that is there, that is not, that does
// not serve; servers of HTTP that answer as a worker or the Hub would.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "client/doctor/http_get.h"
#include "client/testing.h"
#include "nlohmann/json.hpp"
#include "proto/yaml.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Answers every request on a loopback port with one text, and keeps the requests.
class HttpServer {
 public:
  HttpServer(int status, const std::string& body) {
    answer_ = absl::StrCat("HTTP/1.1 ", status, " X\r\nContent-Length: ", body.size(),
                           "\r\nConnection: close\r\n\r\n", body);
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(listen(fd_, 8), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~HttpServer() {
    shutdown(fd_, SHUT_RDWR);
    thread_.join();
    close(fd_);
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  std::string requests;  // To be read after a request has been answered.

 private:
  void Serve() {
    for (int one; (one = accept(fd_, nullptr, nullptr)) >= 0;) {
      char buffer[4096];
      std::string text;
      while (!absl::StrContains(text, "\r\n\r\n")) {
        const ssize_t got = read(one, buffer, sizeof buffer);
        if (got <= 0) break;
        text.append(buffer, static_cast<size_t>(got));
      }
      requests += text;
      EXPECT_EQ(write(one, answer_.data(), answer_.size()), static_cast<ssize_t>(answer_.size()));
      close(one);
    }
  }
  std::string answer_;
  int fd_ = -1;
  int port_ = 0;
  std::thread thread_;
};

ClientRun Doctor(const std::string& part, std::vector<std::string> words,
                 const std::map<std::string, std::string>& variables = {}) {
  words.insert(words.begin(), {"doctor", "--only", part});
  return RunQuantctl(words, variables);
}

v1::Worker GoodWorker() {
  v1::Worker worker;
  const absl::Status status = YamlToMessage(
      "{name: workers/w1, state: IDLE, disk_free_bytes: 1000000000000, catalog: {devices: [{type: "
      "cuda, name: H100, memory_bytes: 85899345920, driver_version: '580.1'}]}}",
      "test", &worker);
  EXPECT_TRUE(status.ok()) << status;
  worker.set_version(QUANTD_VERSION);
  return worker;
}

TEST(Doctor, FindsNothingWrongWithAGoodScheduler) {
  FakeScheduler fake;
  fake.workers = {GoodWorker()};
  const ClientRun run = Doctor("scheduler", {"--scheduler", fake.address()});
  EXPECT_EQ(run.exit_code, 0) << run.out;
  EXPECT_EQ(run.out, absl::StrCat("scheduler\n  ok        address: ", fake.address(),
                                  " accepts connections\n"
                                  "  ok        tls: not encrypted, and the connection stays on "
                                  "this machine\n"
                                  "  ok        health: serving\n"
                                  "  ok        access: calls are allowed, tenant default\n"
                                  "  ok        version: scheduler and quantctl are " QUANTD_VERSION
                                  "\n  ok        worker w1: H100 80.0 GiB, driver 580.1\n"));
}

TEST(Doctor, NamesTheBrokenStepAndItsRemedy) {
  FakeScheduler fake;
  const auto run = [&] { return Doctor("scheduler", {"--scheduler", fake.address()}); };
  EXPECT_THAT(run().out, HasSubstr("warning   workers: none is connected"));
  fake.workers = {GoodWorker(), GoodWorker()};
  fake.workers[0].set_version("0.0.1");
  fake.workers[1].set_state(v1::Worker::LOST);
  fake.version = "9.9.9";
  EXPECT_EQ(run().exit_code, 0);
  EXPECT_THAT(run().out, HasSubstr("the scheduler is 9.9.9, quantctl is " QUANTD_VERSION));
  EXPECT_THAT(run().out, HasSubstr("version 0.0.1, quantctl is " QUANTD_VERSION));
  EXPECT_THAT(run().out, HasSubstr("not heard of for"));
  fake.workers = {GoodWorker()};
  fake.workers[0].set_disk_free_bytes(1 << 20);
  EXPECT_THAT(run().out, HasSubstr("only 1.00 MiB of disk are free"));
  fake.workers_error = absl::UnauthenticatedError("no token");
  EXPECT_EQ(run().exit_code, 1);
  EXPECT_THAT(run().out, HasSubstr("problem   access: no token\n            -> ask"));
  fake.SetServing(false);
  EXPECT_EQ(run().exit_code, 1);
  EXPECT_THAT(run().out, HasSubstr("problem   health: it answers and does not serve"));
}

TEST(Doctor, SaysWhyAnAddressDoesNotWork) {
  const struct {
    const char* address;
    const char* text;
    const char* remedy;
  } kCases[] = {
      {"127.0.0.1:1", "Connection refused", "nothing listens there: start quantd on 127.0.0.1"},
      {"no-such-host.invalid:7717", "looking up no-such-host.invalid", "spelling"},
      {"nonsense", "is no HOST:PORT", "127.0.0.1:7717"},
  };
  for (const auto& test : kCases) {
    const ClientRun run = Doctor("scheduler", {"--scheduler", test.address});
    EXPECT_EQ(run.exit_code, 1);
    EXPECT_THAT(run.out, HasSubstr(test.text));
    EXPECT_THAT(run.out, HasSubstr(test.remedy));
    EXPECT_THAT(run.out, Not(HasSubstr("health")));  // What cannot work is not tried.
  }
}

TEST(Doctor, KnowsAWorkerByItsMetrics) {
  const auto answer = [](const std::string& metrics) {
    const HttpServer server(200, metrics);
    return Doctor("worker", {"--worker-metrics", server.address()});
  };
  const std::string name = "quantd_worker_last_answer_timestamp_seconds ";
  const int64_t now = absl::ToUnixSeconds(absl::Now());
  EXPECT_EQ(answer(absl::StrCat("# HELP x\n", name, now - 3, "\n")).exit_code, 0);
  EXPECT_THAT(answer(absl::StrCat(name, now - 500, "\n")).out,
              HasSubstr("its scheduler has not answered for 8m"));
  EXPECT_THAT(answer(name + "0\n").out, HasSubstr("has never reached its scheduler"));
  EXPECT_THAT(answer("x 1\n").out, HasSubstr("is not a quant-worker's"));
  EXPECT_EQ(answer("x 1\n").exit_code, 1);
  EXPECT_THAT(Doctor("worker", {"--worker-metrics", "127.0.0.1:1"}).out,
              HasSubstr("start quant-worker, or name its --metrics-listen"));
}

TEST(Doctor, TriesTheHubWithItsToken) {
  HttpServer good(200, R"({"name": "somebody-real"})");
  const ClientRun known =
      Doctor("hub", {}, {{"HF_ENDPOINT", "http://" + good.address() + "/"}, {"HF_TOKEN", "hf_x"}});
  EXPECT_THAT(known.out, HasSubstr("knows the token of somebody-real"));
  EXPECT_THAT(known.out, Not(HasSubstr("hf_x")));
  EXPECT_THAT(good.requests, HasSubstr("GET /api/whoami-v2 "));
  EXPECT_THAT(good.requests, HasSubstr("Authorization: Bearer hf_x\r\n"));
  HttpServer anonymous(200, "[]");
  EXPECT_THAT(Doctor("hub", {}, {{"HF_ENDPOINT", "http://" + anonymous.address()}}).out,
              HasSubstr("without a token gated models cannot be read"));
  EXPECT_THAT(anonymous.requests, Not(HasSubstr("Authorization")));
  HttpServer refusing(401, "{}");
  const ClientRun refused =
      Doctor("hub", {}, {{"HF_ENDPOINT", "http://" + refusing.address()}, {"HF_TOKEN", "hf_x"}});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.out, HasSubstr("refuses the token"));
  const ClientRun offline = Doctor("hub", {}, {{"HF_ENDPOINT", "http://127.0.0.1:1"}});
  EXPECT_EQ(offline.exit_code, 0);
  EXPECT_THAT(offline.out, HasSubstr("models in local folders work without it"));
}

TEST(Doctor, LooksAtThisMachineAndPrintsJson) {
  const ClientRun run = Doctor("machine", {"--json"}, {{"HOME", "/tmp"}});
  std::istringstream lines(run.out);
  std::set<std::string> checks;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json finding = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(finding.is_object()) << line;
    EXPECT_EQ(finding["part"], "machine");
    checks.insert(finding["check"].get<std::string>());
  }
  EXPECT_THAT(checks, ::testing::IsSupersetOf({"disk", "memory", "gpu", "engine"}));
}

}  // namespace
}  // namespace quantd
