// Messages that no client of ours sends: cut off, nested, full of empty parts, not UTF-8. Each is
// answered with an error, and the scheduler goes on; the memory that each took is printed.
// QUANTD_MALFORMED_KIB sets how large the large ones are (the full test: 4,096, the limit).
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/e2e/load.h"

namespace quantd::e2e {
namespace {

int64_t MostMemoryKib(pid_t pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string word; status >> word;) {
    int64_t kibibytes = 0;
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes;
  }
  return -1;
}

std::string Repeat(const std::string& part, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += part;
  return all;
}

// A field with a length: the wire's form of strings, messages and groups of numbers.
std::string Field(int number, const std::string& content) {
  std::string field(1, static_cast<char>(number << 3 | 2));
  for (size_t size = content.size(); true; size >>= 7) {
    field += static_cast<char>((size & 127) | (size > 127 ? 128 : 0));
    if (size <= 127) break;
  }
  return field + content;
}

// SubmitJobRequest.spec.quantize with these bytes.
std::string Quantize(const std::string& bytes) { return Field(2, Field(2, bytes)); }

// A Value below a list below a list …
std::string Nested(int depth) {
  std::string value;
  for (int i = 0; i < depth; ++i) value = Field(6, Field(1, value));
  return Field(1, Field(1, "x") + Field(2, value));  // An entry of a Struct's map.
}

struct Case {
  const char* name;
  std::string bytes;
};

// `size`: bytes of those that are large.
std::vector<Case> Cases(size_t size) {
  return {
      {"garbage", std::string(1000, '\xff')},
      {"cut off", Quantize("\x0a\x7fmodel")},
      {"a length beyond the end", "\x12\xff\xff\xff\xff\x0f"},
      {"many empty overrides", Quantize(Repeat(Field(6, ""), size / 2))},
      {"many empty secrets", Field(2, Repeat("\x8a\x01" + std::string(1, '\0'), size / 3))},
      {"many empty dependencies", Field(2, Repeat(Field(11, ""), size / 2))},
      {"many labels", Field(2, Repeat(Field(15, ""), size / 2))},
      {"many options", Quantize(Field(3, Repeat(Field(1, ""), size / 2)))},
      {"unknown fields alone", Repeat(Field(9, ""), size / 2)},
      {"options 45 deep", Quantize(Field(3, Nested(45)))},
      {"options 10,000 deep", Quantize(Field(3, Nested(10'000)))},
      {"not UTF-8", Quantize(Field(1, "\xc3\x28"))},
      {"an unknown condition", Field(2, Field(11, Field(1, "jobs/a") + "\x10\x63"))},
      {"an empty message", ""},
  };
}

grpc::Status Call(const std::string& address, const std::string& bytes,
                  const std::string& metadata = "") {
  grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(30)));
  if (!metadata.empty()) context.AddMetadata("x-words", metadata);
  const grpc::Slice slice(bytes);
  grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::CompletionQueue queue;
  const auto call =
      stub.PrepareUnaryCall(&context, "/quantd.v1.JobService/SubmitJob", request, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  return status;
}

TEST(Malformed, EveryMessageIsAnsweredAndRefused) {
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "");
  ASSERT_FALSE(HasFailure());
  const pid_t pid = scheduler.process().pid();
  Client client({scheduler.address()});
  EXPECT_TRUE(RegisterFake(&client, "workers/fake", "fake").ok());
  const size_t frame = 64;
  for (const Case& one : Cases((FromEnvironment("QUANTD_MALFORMED_KIB", 256) << 10) - frame)) {
    const int64_t before = MostMemoryKib(pid);
    const absl::Time sent = absl::Now();
    const grpc::Status status = Call(scheduler.address(), one.bytes);
    const absl::Duration took = absl::Now() - sent;
    EXPECT_FALSE(status.ok()) << one.name;
    EXPECT_NE(status.error_code(), grpc::StatusCode::UNAVAILABLE) << one.name;
    EXPECT_NE(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << one.name;
    std::printf("%s: %d %.120s, %lld MiB more, %.1f s\n", one.name, status.error_code(),
                status.error_message().c_str(),
                static_cast<long long>((MostMemoryKib(pid) - before) >> 10),
                absl::ToDoubleSeconds(took));
  }
  EXPECT_FALSE(Call(scheduler.address(), "", std::string(1 << 20, 'x')).ok());
  std::vector<v1::Job> jobs;
  EXPECT_TRUE(client.Jobs(&jobs).ok());
  EXPECT_TRUE(jobs.empty());
  EXPECT_EQ(scheduler.Stop(), 0);
}

}  // namespace
}  // namespace quantd::e2e
