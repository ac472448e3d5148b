// What a scrape sees.
#include "workers/agent/metrics.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/numbers.h"

namespace quantd {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Scrape(const std::string& address) {
  sockaddr_in peer = {};
  peer.sin_family = AF_INET;
  inet_pton(AF_INET, "127.0.0.1", &peer.sin_addr);
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
  peer.sin_port = htons(static_cast<uint16_t>(port));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&peer), sizeof(peer)), 0) << address;
  const std::string request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof(buffer))) > 0;) answer.append(buffer, got);
  close(fd);
  return answer;
}

TEST(AgentMetrics, AreServedOnAPortOfTheKernelsChoice) {
  AgentMetrics metrics;
  const absl::StatusOr<std::string> address = metrics.Listen("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  metrics.EngineMemory(123, 456);
  metrics.Gpus({{.memory_used_bytes = 5, .utilization_ratio = 0.5, .temperature_celsius = 40}});
  const std::string answer = Scrape(*address);
  EXPECT_THAT(answer, HasSubstr("200 OK"));
  EXPECT_THAT(answer, HasSubstr("quantd_worker_engine_resident_peak_bytes 456"));
  EXPECT_THAT(answer, HasSubstr("quantd_worker_gpu_utilization_ratio{gpu=\"0\"} 0.5"));
}

TEST(AgentMetrics, RefusesAnAddressThatIsTaken) {
  AgentMetrics first, second;
  const absl::StatusOr<std::string> address = first.Listen("127.0.0.1:0");
  ASSERT_TRUE(address.ok());
  EXPECT_FALSE(second.Listen(*address).ok());
}

TEST(AgentMetrics, LabelsComeFromClosedSets) {
  AgentMetrics metrics;
  v1::Catalog catalog;
  catalog.add_tasks()->set_name("arc");
  metrics.SetCatalog(catalog);
  ProgressMeter meter(&metrics);
  const auto progress = [&](const std::string& phase, int64_t done) {
    v1::Progress progress;
    progress.set_phase(phase);
    progress.set_done(done);
    progress.set_unit("sample");
    meter.Update(progress, absl::Seconds(done));
  };
  progress("evaluate arc", 10);
  progress("evaluate arc", 30);
  progress("evaluate whatever-a-user-wrote", 5);
  progress("something odd", 1);
  meter.Finish(absl::Seconds(100));
  const std::string text = metrics.Render();
  EXPECT_THAT(text, HasSubstr("quantd_worker_eval_samples_total{task=\"arc\"} 30"));
  EXPECT_THAT(text, HasSubstr("quantd_worker_eval_samples_total{task=\"other\"} 6"));
  EXPECT_THAT(text, HasSubstr("quantd_worker_phase_seconds_count{phase=\"evaluate\"} 2"));
  EXPECT_THAT(text, Not(HasSubstr("whatever")));
  EXPECT_THAT(text, Not(HasSubstr("odd")));
}

}  // namespace
}  // namespace quantd
