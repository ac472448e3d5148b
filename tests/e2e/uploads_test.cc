// An upload that is cut at random offsets, and whose scheduler dies now and then: it goes on close
// to where it was cut, and ends as the bytes that were meant. QUANTD_UPLOAD_MIB and
// QUANTD_UPLOAD_CUTS set how large it is and how often it is cut (the full test: 1,024 and 1,000).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "tests/e2e/load.h"

namespace quantd::e2e {
namespace {

constexpr int64_t kChunkBytes = int64_t{256} << 10;
// The store begins to write to the disk every 8 MiB; and a chunk.
constexpr int64_t kSentAgainMax = (int64_t{8} << 20) + kChunkBytes;
constexpr size_t kCutsPerDeath = 50;

std::string RandomBytes(size_t size, std::mt19937_64* random) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i + sizeof(uint64_t) <= size; i += sizeof(uint64_t)) {
    const uint64_t word = (*random)();
    memcpy(&bytes[i], &word, sizeof word);
  }
  return bytes;
}

class Upload {
 public:
  Upload(const std::string& address, const std::string& bytes) : client_({address}), bytes_(bytes) {
    blob_.set_sha256(Sha256Hex(bytes));
    blob_.set_size_bytes(static_cast<int64_t>(bytes.size()));
  }
  // From where the scheduler is, until so many bytes are sent; then the connection breaks, unless
  // all are. How many had been sent before.
  int64_t SendUntil(int64_t end) {
    v1::StartUploadRequest start;
    *start.mutable_blob() = blob_;
    v1::StartUploadResponse started;
    EXPECT_TRUE(
        client_.Ask<v1::ArtifactService>(&v1::ArtifactService::Stub::StartUpload, start, &started)
            .ok());
    const int64_t again = sent_ - started.committed_bytes();
    EXPECT_GE(again, 0) << "bytes that nobody sent";
    grpc::ClientContext context;
    v1::UploadBlobResponse response;
    const auto stream =
        v1::ArtifactService::NewStub(client_.channel())->UploadBlob(&context, &response);
    for (sent_ = started.committed_bytes(); sent_ < end;) {
      const int64_t size = std::min(kChunkBytes, end - sent_);
      v1::UploadBlobRequest chunk;
      chunk.set_upload(started.upload());
      chunk.set_offset(sent_);
      chunk.set_data(bytes_.substr(static_cast<size_t>(sent_), static_cast<size_t>(size)));
      sent_ += size;
      chunk.set_finish(sent_ == blob_.size_bytes());
      if (!stream->Write(chunk)) break;
    }
    if (end == blob_.size_bytes()) {
      stream->WritesDone();
      EXPECT_TRUE(stream->Finish().ok());
      EXPECT_TRUE(response.complete());
    } else {
      context.TryCancel();
      stream->Finish();
    }
    return again;
  }
  bool Is(std::string* downloaded) { return client_.Download(blob_, downloaded).ok(); }

 private:
  Client client_;
  const std::string& bytes_;
  v1::Blob blob_;
  int64_t sent_ = 0;
};

TEST(Uploads, CutAtRandomOffsetsTheyGoOnCloseToThere) {
  std::mt19937_64 random(ChaosSeed());
  const std::string bytes = RandomBytes(FromEnvironment("QUANTD_UPLOAD_MIB", 16) << 20, &random);
  const auto size = static_cast<int64_t>(bytes.size());
  std::vector<int64_t> cuts(FromEnvironment("QUANTD_UPLOAD_CUTS", 20));
  for (int64_t& cut : cuts) cut = static_cast<int64_t>(random() % static_cast<uint64_t>(size));
  std::sort(cuts.begin(), cuts.end());
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "", /*lease_seconds=*/30);
  ASSERT_FALSE(HasFailure());
  Upload upload(scheduler.address(), bytes);
  int64_t most = 0;
  int64_t sum = 0;
  for (size_t i = 0; i < cuts.size() && !HasFailure(); ++i) {
    const int64_t again = upload.SendUntil(cuts[i]);
    EXPECT_LE(again, kSentAgainMax) << "after cut " << i;
    most = std::max(most, again);
    sum += again;
    if (i % kCutsPerDeath == kCutsPerDeath / 4) {
      scheduler.Kill();
      scheduler.Start();
    }
  }
  upload.SendUntil(size);
  std::string downloaded;
  ASSERT_TRUE(upload.Is(&downloaded));
  EXPECT_TRUE(downloaded == bytes);
  std::printf("%zu cuts of %lld MiB: %lld KiB sent again, %lld at most after a cut\n", cuts.size(),
              static_cast<long long>(size >> 20), static_cast<long long>(sum >> 10),
              static_cast<long long>(most >> 10));
}

}  // namespace
}  // namespace quantd::e2e
