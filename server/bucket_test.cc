// quantd with its artifacts in a bucket, as a process that is killed with SIGKILL in the middle of
// uploads: what was acknowledged is there for the next one, what was not goes on.
// QUANTD_BUCKET_KILLS sets the kills, QUANTD_BUCKET_SEED repeats a run.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <iostream>
#include <random>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/sha256.h"
#include "proto/channel.h"
#include "proto/errors.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "server/artifacts/s3_client.h"
#include "server/artifacts/testing/s3_server.h"
#include "workers/agent/transfer.h"

namespace quantd {
namespace {

constexpr char kProgram[] = QUANTD_BINARY_DIR "/bin/quantd";
constexpr size_t kBlobBytes = size_t{80} << 20;  // A group of parts, and a rest.
constexpr size_t kChunk = size_t{256} << 10;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  uint64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

// Its exit status.
int RunShell(const std::string& command) {
  FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  std::string text(4096, '\0');
  text.resize(fread(text.data(), 1, text.size(), pipe));
  const int status = pclose(pipe);
  if (status != 0) std::cerr << text;
  return status;
}

std::string RandomBytes(std::mt19937_64* random) {
  std::string bytes(kBlobBytes, '\0');
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = (*random)();
    bytes.replace(i, 8, reinterpret_cast<const char*>(&word), 8);
  }
  return bytes;
}

v1::Blob BlobOf(const std::string& bytes) {
  v1::Blob blob;
  blob.set_sha256(Sha256Hex(bytes));
  blob.set_size_bytes(static_cast<int64_t>(bytes.size()));
  return blob;
}

class BucketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!S3Server::Available()) GTEST_SKIP() << "QUANTD_S3_SERVER has none; ./dev test sets it";
    server_ = std::make_unique<S3Server>();
    char pattern[] = "/tmp/quantd-bucket-XXXXXX";
    folder_ = mkdtemp(pattern);
  }
  void TearDown() override {
    Kill();
    if (folder_.empty()) return;
    EXPECT_TRUE(RemoveTree(folder_).ok());
  }

  // A scheduler with a data folder of that name.
  void Start(const std::string& name) {
    const S3Config config = server_->Config("");
    const std::string ready = folder_ + "/ready.json", log = folder_ + "/log";
    unlink(ready.c_str());
    std::vector<std::string> words = {
        kProgram,
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "off",
        "--data",
        folder_ + "/" + name,
        "--ready-file",
        ready,
        "--free-mib-min",
        "0",
        "--artifacts",
        absl::StrCat("s3://bucket/artifacts?endpoint=", server_->url())};
    std::vector<std::string> environment = {"AWS_ACCESS_KEY_ID=" + config.keys.access_key,
                                            "AWS_SECRET_ACCESS_KEY=" + config.keys.secret_key};
    const auto pointers = [](std::vector<std::string>& strings) {
      std::vector<char*> out;
      for (std::string& text : strings) out.push_back(text.data());
      out.push_back(nullptr);
      return out;
    };
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    ASSERT_EQ(posix_spawn(&pid_, kProgram, &actions, nullptr, pointers(words).data(),
                          pointers(environment).data()),
              0);
    posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < 1200 && !FileExists(ready); ++i) {
      ASSERT_EQ(waitpid(pid_, nullptr, WNOHANG), 0) << ReadFile(log).value_or("");
      absl::SleepFor(absl::Milliseconds(25));
    }
    const std::string text = ReadFile(ready).value_or("");
    const size_t at = text.find("127.0.0.1:");
    ASSERT_NE(at, std::string::npos) << ReadFile(log).value_or("");
    address_ = text.substr(at, text.find('"', at) - at);
    stub_ = v1::ArtifactService::NewStub(grpc::CreateCustomChannel(
        address_, grpc::InsecureChannelCredentials(), ClientChannelArguments()));
  }
  void Kill() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

  // From where the scheduler has got to; false when the connection was cut.
  bool Upload(const v1::Blob& blob, const std::string& bytes) {
    v1::StartUploadRequest start;
    *start.mutable_blob() = blob;
    v1::StartUploadResponse started;
    {
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
      if (!stub_->StartUpload(&context, start, &started).ok()) return false;
    }
    if (started.complete()) return true;
    EXPECT_GE(started.committed_bytes(), committed_) << "what was kept is kept";
    committed_ = started.committed_bytes();
    grpc::ClientContext context;
    v1::UploadBlobResponse response;
    const auto stream = stub_->UploadBlob(&context, &response);
    v1::UploadBlobRequest chunk;
    chunk.set_upload(started.upload());
    size_t at = static_cast<size_t>(committed_);
    do {  // Once even if all bytes are there: a kill may have left only the end to say.
      chunk.set_offset(static_cast<int64_t>(at));
      chunk.set_data(bytes.substr(std::min(at, bytes.size()), kChunk));
      chunk.set_finish(at + kChunk >= bytes.size());
      if (!stream->Write(chunk)) break;
      chunk.clear_upload();
      sent_bytes_ += static_cast<int64_t>(kChunk);
      at += kChunk;
    } while (at < bytes.size());
    stream->WritesDone();
    return stream->Finish().ok() && response.complete();
  }
  std::string Download(const v1::Blob& blob) {
    v1::DownloadBlobRequest request;
    request.set_sha256(blob.sha256());
    grpc::ClientContext context;
    const auto stream = stub_->DownloadBlob(&context, request);
    v1::DownloadBlobResponse chunk;
    Sha256 digest;
    while (stream->Read(&chunk)) digest.Update(chunk.data());
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return digest.HexDigest();
  }

  std::unique_ptr<S3Server> server_;
  std::string folder_;
  pid_t pid_ = 0;
  std::string address_;
  std::unique_ptr<v1::ArtifactService::Stub> stub_;
  int64_t committed_ = 0;
  std::atomic<int64_t> sent_bytes_{0};
};

TEST_F(BucketTest, KilledInTheMiddleOfAnUploadAndDownloadedRightAfterwards) {
  const uint64_t seed = FromEnvironment("QUANTD_BUCKET_SEED", std::random_device()());
  const uint64_t kills = FromEnvironment("QUANTD_BUCKET_KILLS", 3);
  std::cerr << "QUANTD_BUCKET_SEED=" << seed << "\n";
  std::mt19937_64 random(seed);
  const std::string bytes = RandomBytes(&random);
  const v1::Blob blob = BlobOf(bytes);
  for (uint64_t i = 0; i < kills; ++i) {
    Start("a");
    ASSERT_FALSE(HasFatalFailure());
    const int64_t stop = sent_bytes_ + static_cast<int64_t>(random() % (kBlobBytes / kills));
    std::atomic<bool> done{false};
    std::thread killer([&] {
      while (!done && sent_bytes_ < stop) absl::SleepFor(absl::Milliseconds(1));
      // Anywhere from there on: also while parts go up, and between the last two steps.
      absl::SleepFor(absl::Milliseconds(random() % 400));
      kill(pid_, SIGKILL);
    });
    const bool whole = Upload(blob, bytes);
    done = true;
    killer.join();
    Kill();
    std::cerr << "kill " << i << " at " << FormatBytes(committed_) << (whole ? ", whole" : "")
              << "\n";
  }
  Start("a");
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_TRUE(Upload(blob, bytes));
  EXPECT_EQ(Download(blob), blob.sha256());
  // Whatever was begun in the bucket was ended.
  S3Config config = server_->Config("artifacts/");
  EXPECT_TRUE(S3Client(config).OpenUploads()->empty());
  // Acknowledged means that it is in the bucket: a scheduler that knows nothing has it.
  Kill();
  Start("b");
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_EQ(Download(blob), blob.sha256());
}

// What an undisturbed transfer does; its figures are for people.
TEST_F(BucketTest, ALargeBlobGoesUpAndComesDown) {
  std::mt19937_64 random(1);
  const std::string bytes = RandomBytes(&random);
  const v1::Blob blob = BlobOf(bytes);
  Start("a");
  ASSERT_FALSE(HasFatalFailure());
  const auto timed = [&](const char* what, const auto& transfer) {
    const absl::Time start = absl::Now();
    transfer();
    std::cerr << what << " "
              << static_cast<double>(kBlobBytes) / 1e6 / absl::ToDoubleSeconds(absl::Now() - start)
              << " MB/s\n";
  };
  timed("up", [&] { ASSERT_TRUE(Upload(blob, bytes)); });
  timed("down through the scheduler", [&] { EXPECT_EQ(Download(blob), blob.sha256()); });
  timed("down by a link", [&] {
    v1::DownloadBlobRequest request;
    request.set_sha256(blob.sha256());
    request.set_accept_link(true);
    grpc::ClientContext context;
    const auto stream = stub_->DownloadBlob(&context, request);
    v1::DownloadBlobResponse answer;
    ASSERT_TRUE(stream->Read(&answer));
    Sha256 digest;
    const absl::Status status = FetchHttp({.url = answer.link()}, [&](absl::string_view data) {
      digest.Update(data);
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_FALSE(stream->Read(&answer));
    EXPECT_TRUE(stream->Finish().ok());
    EXPECT_EQ(digest.HexDigest(), blob.sha256());
  });
}

TEST_F(BucketTest, QuantctlFetchesFromTheBucketItself) {
  Start("a");
  ASSERT_FALSE(HasFatalFailure());
  const std::string bytes(3'000'000, 'x');
  const v1::Blob blob = BlobOf(bytes);
  ASSERT_TRUE(Upload(blob, bytes));
  v1::CreateArtifactRequest create;
  create.set_parent("tenants/default");
  v1::ManifestFile& file = *create.mutable_manifest()->add_files();
  file.set_path("model.bin");
  *file.mutable_blob() = blob;
  v1::Artifact artifact;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->CreateArtifact(&context, create, &artifact).ok());
  const auto get = [&](const std::string& folder) {
    const std::string command =
        absl::StrCat(QUANTD_BINARY_DIR "/bin/quantctl --scheduler ", address_, " artifacts get ",
                     artifact.manifest().sha256(), " -o ", folder_, "/", folder);
    EXPECT_EQ(RunShell(command), 0);
    EXPECT_EQ(Sha256File(absl::StrCat(folder_, "/", folder, "/model.bin")).value_or("none"),
              blob.sha256());
  };
  // Only links are signed in the query.
  get("direct");
  EXPECT_EQ(server_->Count("GET X-Amz-Signature"), 1);
  // A storage that only the scheduler can reach: the bytes come through it.
  server_->Fault(R"({"kind": "cut", "method": "GET", "match": "X-Amz-Signature", "count": 9})");
  get("through");
  EXPECT_EQ(server_->Count("GET X-Amz-Signature"), 2);
}

TEST_F(BucketTest, WorkersFetchFromTheBucketItself) {
  Start("a");
  ASSERT_FALSE(HasFatalFailure());
  std::mt19937_64 random(2);
  const std::string bytes = RandomBytes(&random);
  const v1::Blob blob = BlobOf(bytes);
  const std::string source = folder_ + "/source";
  ASSERT_TRUE(WriteFileAtomic(source, bytes).ok());
  CancelScope scope;
  TransferControl control;
  control.scope = &scope;
  BlobTransfer transfer(stub_.get());
  ASSERT_TRUE(transfer.Upload(source, blob, control).ok());
  // In pieces of 64 MiB, the second of which breaks off; what is left comes through the scheduler.
  server_->Fault(R"({"kind": "cut_body", "method": "GET", "match": "X-Amz-Signature", "skip": 1})");
  const absl::Status status = transfer.Download(blob, folder_ + "/copy", control);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Sha256File(folder_ + "/copy").value_or("none"), blob.sha256());
  EXPECT_EQ(server_->Count("GET X-Amz-Signature"), 2);
}

TEST_F(BucketTest, AStartWithoutTheBucketSaysWhy) {
  const std::string log = folder_ + "/log";
  const auto start = [&](const std::string& bucket) {
    const std::string command =
        absl::StrCat("AWS_ACCESS_KEY_ID=test-key AWS_SECRET_ACCESS_KEY=x exec ", kProgram,
                     " --listen 127.0.0.1:0 --metrics-listen off --data ", folder_,
                     "/c --artifacts 's3://", bucket, "?endpoint=", server_->url(), "' 2>&1");
    FILE* const pipe = popen(command.c_str(), "r");
    std::string text(4096, '\0');
    text.resize(fread(text.data(), 1, text.size(), pipe));
    EXPECT_NE(pclose(pipe), 0);
    return text;
  };
  EXPECT_THAT(start("bucket"), ::testing::HasSubstr("check AWS_SECRET_ACCESS_KEY"));
  EXPECT_THAT(start("b"), ::testing::HasSubstr("bucket's name"));
}

}  // namespace
}  // namespace quantd
