// The cache over real transfers, and the lease keeper's fence under a clock that the test moves.
#include "workers/agent/blob_cache.h"

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "base/file.h"
#include "base/testing/evil_paths.h"
#include "proto/channel.h"
#include "workers/agent/job_folder.h"
#include "workers/agent/lease_keeper.h"
#include "workers/agent/manifest.h"
#include "workers/agent/testing/fake_scheduler.h"

namespace quantd {
namespace {

class BlobCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/quantd_cache_XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
    control_.scope = &scope_;
    Reopen(1'000);
  }
  void TearDown() override { RemoveTree(folder_).IgnoreError(); }
  void Reopen(int64_t limit_bytes) {
    auto cache = BlobCache::Open(folder_ + "/blobs", limit_bytes);
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }
  absl::Status Place(const v1::Blob& blob) {
    return cache_->Place(blob, folder_ + "/target", transfer_, control_);
  }

  FakeScheduler scheduler_;
  std::shared_ptr<grpc::Channel> channel_ = grpc::CreateCustomChannel(
      scheduler_.address(), grpc::InsecureChannelCredentials(), ClientChannelArguments());
  std::unique_ptr<v1::ArtifactService::Stub> stub_ = v1::ArtifactService::NewStub(channel_);
  BlobTransfer transfer_{stub_.get()};
  CancelScope scope_;
  TransferControl control_;
  std::string folder_;
  std::unique_ptr<BlobCache> cache_;
};

TEST_F(BlobCacheTest, EvictsTheLeastRecentlyUsedAndSurvivesAReopening) {
  const v1::Blob a = scheduler_.AddBlob(std::string(400, 'a'));
  const v1::Blob b = scheduler_.AddBlob(std::string(400, 'b'));
  const v1::Blob c = scheduler_.AddBlob(std::string(400, 'c'));
  for (const v1::Blob& blob : {a, b, a, c}) ASSERT_TRUE(Place(blob).ok());
  EXPECT_TRUE(cache_->Contains(a.sha256()));
  EXPECT_FALSE(cache_->Contains(b.sha256()));
  EXPECT_TRUE(cache_->Contains(c.sha256()));
  EXPECT_EQ(scheduler_.downloaded_bytes, 1'200);
  Reopen(1'000);
  EXPECT_EQ(cache_->size_bytes(), 800);
  ASSERT_TRUE(Place(a).ok());
  EXPECT_EQ(scheduler_.downloaded_bytes, 1'200);
  EXPECT_EQ(ReadFile(folder_ + "/target").value_or(""), std::string(400, 'a'));
}

TEST_F(BlobCacheTest, AnEmptyBlobIsABlob) {
  const v1::Blob empty = scheduler_.AddBlob("");
  ASSERT_TRUE(Place(empty).ok());
  EXPECT_EQ(FileSize(folder_ + "/target").value_or(-1), 0);
}

TEST_F(BlobCacheTest, ADamagedPartialDownloadIsStartedOver) {
  const v1::Blob blob = scheduler_.AddBlob(std::string(300, 'x'));
  std::ofstream(folder_ + "/blobs/partial/" + blob.sha256()) << std::string(100, 'y');
  ASSERT_TRUE(Place(blob).ok());
  EXPECT_EQ(ReadFile(folder_ + "/target").value_or(""), std::string(300, 'x'));
}

TEST_F(BlobCacheTest, AMissingBlobAndAFullDiskAreDifferentErrors) {
  v1::Blob blob;
  blob.set_sha256(std::string(64, '0'));
  blob.set_size_bytes(10);
  EXPECT_TRUE(absl::IsNotFound(Place(blob)));
  blob.set_size_bytes(int64_t{1} << 60);
  EXPECT_TRUE(absl::IsFailedPrecondition(Place(blob)));
  blob.set_sha256("../../etc/passwd");
  EXPECT_TRUE(absl::IsInvalidArgument(Place(blob)));
}

TEST_F(BlobCacheTest, ACheckpointsFilesStayInTheirFolder) {
  JobFolder job(folder_ + "/data", "tenants/t/jobs/../../../j");
  v1::ManifestFile file;
  *file.mutable_blob() = scheduler_.AddBlob("weights");
  const auto restore = [&](const std::string& path) {
    file.set_path(path);
    EXPECT_TRUE(job.Begin().ok());
    return job.RestoreCheckpoint(ToManifest({{path, file}}), *cache_, transfer_, control_);
  };
  for (const std::string& path : EvilPaths()) {
    EXPECT_TRUE(absl::IsInvalidArgument(restore(path))) << path;
  }
  for (const std::string& path : OddPaths()) {
    EXPECT_TRUE(restore(path).ok()) << path;
    EXPECT_TRUE(FileExists(job.work() + "/" + path)) << path;
  }
  // Nothing lies beside the folder that was meant.
  const auto count = [](const std::string& folder) {
    return std::distance(std::filesystem::directory_iterator(folder), {});
  };
  EXPECT_EQ(count(folder_), 2);
  EXPECT_EQ(count(folder_ + "/data"), 1);
  EXPECT_EQ(count(folder_ + "/data/jobs"), 1);
}

TEST_F(BlobCacheTest, AnUploadOfOtherBytesIsRefused) {
  std::ofstream(folder_ + "/file") << "other";
  v1::Blob blob;
  blob.set_sha256(std::string(64, '0'));
  blob.set_size_bytes(5);
  EXPECT_TRUE(absl::IsInvalidArgument(transfer_.Upload(folder_ + "/file", blob, control_)));
}

TEST(LeaseKeeper, FencesItselfWithoutAnAnswerAndGoesOnWithOne) {
  FakeScheduler scheduler;
  const std::string job = scheduler.Submit("x");
  const auto stub = v1::WorkerService::NewStub(
      grpc::CreateChannel(scheduler.address(), grpc::InsecureChannelCredentials()));
  const auto call = [&](auto method, const auto& request, auto* response) {
    grpc::ClientContext context;
    ASSERT_TRUE((stub.get()->*method)(&context, request, response).ok());
  };
  v1::RegisterWorkerRequest worker;
  worker.mutable_worker()->set_name("workers/w");
  v1::RegisterWorkerResponse registered;
  call(&v1::WorkerService::Stub::RegisterWorker, worker, &registered);
  v1::LeaseJobRequest poll;
  poll.set_worker("workers/w");
  v1::LeaseJobResponse granted;
  call(&v1::WorkerService::Stub::LeaseJob, poll, &granted);

  AgentMetrics metrics;
  FakeClock clock;
  CancelScope scope;
  LeaseKeeper keeper(stub.get(), granted.lease(), &metrics, {}, clock);
  EXPECT_TRUE(keeper.Gate(scope).ok());
  scheduler.refuse_reports = 1'000'000;
  clock.Advance(absl::Seconds(25));  // 0.8 of 30 s is 24 s.
  CancelScope impatient;
  impatient.Cancel();
  EXPECT_TRUE(absl::IsCancelled(keeper.Gate(impatient))) << "must wait, not pass";
  scheduler.refuse_reports = 0;
  EXPECT_TRUE(keeper.Gate(scope).ok()) << "an answer opens it again";
  scheduler.TakeAway(job, /*requeue=*/false);
  clock.Advance(absl::Seconds(25));
  EXPECT_TRUE(absl::IsAborted(keeper.Gate(scope)));
}

}  // namespace
}  // namespace quantd
