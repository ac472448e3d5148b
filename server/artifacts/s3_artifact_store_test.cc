// What is S3's own: signatures against Amazon's examples, where a bucket is and with which keys,
// and the store over a real S3 API server that is slow, full of errors, cut off and frozen.
#include "server/artifacts/s3_artifact_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/sha256.h"
#include "server/artifacts/s3_signature.h"
#include "server/artifacts/testing/s3_server.h"

namespace quantd {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

// Amazon's "Signature Calculations for the Authorization Header" and "Using Query Parameters".
const S3Keys kExampleKeys = {.access_key = "AKIAIOSFODNN7EXAMPLE",
                             .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                             .session_token = ""};
absl::Time ExampleTime() {
  return absl::FromCivil(absl::CivilDay(2013, 5, 24), absl::UTCTimeZone());
}

TEST(Signature, IsThatOfTheDocumentationsExamples) {
  S3ToSign lifecycle{.method = "GET",
                     .host = "examplebucket.s3.amazonaws.com",
                     .path = "/",
                     .query = {{"lifecycle", ""}},
                     .body_sha256 = Sha256Hex(""),
                     .time = ExampleTime()};
  EXPECT_THAT(SignS3(kExampleKeys, "us-east-1", lifecycle),
              Contains(HasSubstr(
                  "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")));
  lifecycle.query = {{"prefix", "J"}, {"max-keys", "2"}};
  EXPECT_THAT(SignS3(kExampleKeys, "us-east-1", lifecycle),
              Contains(HasSubstr(
                  "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")));
  const S3ToSign link{.method = "GET",
                      .host = "examplebucket.s3.amazonaws.com",
                      .path = "/test.txt",
                      .time = ExampleTime()};
  EXPECT_THAT(PresignS3(kExampleKeys, "us-east-1", link, absl::Hours(24)),
              HasSubstr("X-Amz-Signature="
                        "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"));
}

class Url : public ::testing::Test {
 protected:
  absl::StatusOr<S3Config> Parse(const std::string& url) {
    return ParseS3Url(url, [this](const char* name) { return environment_[name]; });
  }
  std::map<std::string, std::string> environment_ = {{"AWS_ACCESS_KEY_ID", "k"},
                                                     {"AWS_SECRET_ACCESS_KEY", "s"}};
};

TEST_F(Url, SaysWhereTheBucketIs) {
  const auto config = Parse("s3://my-bucket/a/b/?endpoint=http://127.0.0.1:9000&region=eu-west-1");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->bucket, "my-bucket");
  EXPECT_EQ(config->prefix, "a/b/");
  EXPECT_EQ(config->endpoint, "http://127.0.0.1:9000");
  EXPECT_EQ(config->region, "eu-west-1");
  EXPECT_TRUE(config->path_style);
  EXPECT_FALSE(Parse("s3://bucket?endpoint=https://h&path-style=off")->path_style);
  EXPECT_EQ(Parse("s3://bucket")->prefix, "");
  EXPECT_EQ(Parse("s3://bucket")->endpoint, "https://s3.us-east-1.amazonaws.com");
  EXPECT_FALSE(Parse("s3://bucket")->path_style);
  EXPECT_TRUE(Parse("s3://buck.et")->path_style) << "no certificate covers its name as a host";
  environment_["AWS_REGION"] = "eu-central-1";
  environment_["AWS_ENDPOINT_URL"] = "https://storage.googleapis.com/";
  EXPECT_EQ(Parse("s3://bucket")->region, "eu-central-1");
  EXPECT_EQ(Parse("s3://bucket")->endpoint, "https://storage.googleapis.com");
  EXPECT_EQ(Parse("s3://bucket?region=x")->region, "x");
}

TEST_F(Url, IsRefusedWithWhatIsWrong) {
  const std::pair<const char*, const char*> kWrong[] = {
      {"/folder", "s3://"},
      {"s3://", "bucket's name"},
      {"s3://b", "bucket's name"},
      {"s3://bucket/a b", "prefix"},
      {"s3://bucket//a", "prefix"},
      {"s3://bucket?x=1", "\"x\""},
      {"s3://bucket?secret=hunter2", "environment"},
      {"s3://bucket?endpoint=9000", "http://host:port"},
      {"s3://bucket?endpoint=http://h/path", "without a path"},
      {"s3://bucket/?region=", "region"},
      {"s3://bucket?path-style=yes", "on or off"},
      {"s3://bucket?credentials=/nowhere", "/nowhere"},
  };
  for (const auto& [url, words] : kWrong) {
    const auto config = Parse(url);
    EXPECT_FALSE(config.ok()) << url;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(words)) << url;
    EXPECT_THAT(std::string(config.status().message()), ::testing::Not(HasSubstr("hunter2")));
  }
  environment_["AWS_CA_BUNDLE"] = "/nowhere.pem";
  EXPECT_THAT(std::string(Parse("s3://bucket").status().message()), HasSubstr("/nowhere.pem"));
  environment_.clear();
  EXPECT_THAT(std::string(Parse("s3://bucket").status().message()), HasSubstr("AWS_ACCESS_KEY_ID"));
}

TEST_F(Url, KeysComeFromAFileToo) {
  char path[] = "/tmp/quantd-keys-XXXXXX";
  close(mkstemp(path));
  ASSERT_TRUE(WriteFileAtomic(path,
                              "# mine\n[default]\naws_access_key_id = a\naws_secret_access_key=b\n"
                              "\n[other]\naws_access_key_id=c\naws_secret_access_key=d=\n"
                              "aws_session_token=e\n[half]\naws_access_key_id=f\n")
                  .ok());
  const std::string url = absl::StrCat("s3://bucket?credentials=", path);
  EXPECT_EQ(Parse(url)->keys, (S3Keys{.access_key = "a", .secret_key = "b", .session_token = ""}));
  environment_["AWS_PROFILE"] = "other";
  EXPECT_EQ(Parse(url)->keys,
            (S3Keys{.access_key = "c", .secret_key = "d=", .session_token = "e"}));
  environment_["AWS_PROFILE"] = "half";
  EXPECT_THAT(std::string(Parse(url).status().message()), HasSubstr("[half]"));
  environment_ = {{"AWS_SHARED_CREDENTIALS_FILE", path}};
  EXPECT_EQ(Parse("s3://bucket")->keys.access_key, "a");
  unlink(path);
}

constexpr int64_t kPart = 64 << 10;

class S3StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!S3Server::Available()) GTEST_SKIP() << "QUANTD_S3_SERVER has none; ./dev test sets it";
    server_ = &SharedS3Server();
    char pattern[] = "/tmp/quantd-s3-XXXXXX";
    folder_ = mkdtemp(pattern);
    config_ = server_->Config(folder_.substr(5) + "/");
    config_.part_bytes = kPart;
  }
  void TearDown() override {
    if (folder_.empty()) return;
    EXPECT_TRUE(RemoveTree(folder_).ok());
  }
  absl::StatusOr<std::unique_ptr<S3ArtifactStore>> TryOpen(const std::string& name = "local") {
    LocalArtifactStoreOptions options;
    options.folder = folder_ + "/" + name;
    options.free_bytes_min = 0;
    options.secret = "shared";
    return S3ArtifactStore::Open(config_, options, absl::Now());
  }
  std::unique_ptr<S3ArtifactStore> Open(const std::string& name = "local") {
    auto store = TryOpen(name);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  std::string OpenError() { return TryOpen().status().ToString(); }
  static v1::Blob BlobOf(const std::string& bytes) {
    v1::Blob blob;
    blob.set_sha256(Sha256Hex(bytes));
    blob.set_size_bytes(static_cast<int64_t>(bytes.size()));
    return blob;
  }
  static std::string Bytes(size_t size, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::string bytes(size, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    return bytes;
  }
  // From where the store has got to, in chunks, at least up to `stop_after`.
  static absl::Status Upload(S3ArtifactStore* store, const v1::Blob& blob, const std::string& bytes,
                             size_t stop_after = ~size_t{0}) {
    auto state = store->StartUpload(blob);
    if (!state.ok() || state->complete) return state.status();
    size_t at = static_cast<size_t>(state->committed_bytes);
    do {
      const size_t size = std::min<size_t>(40'000, bytes.size() - at);
      const auto next = store->Append({.upload = state->upload,
                                       .offset_bytes = static_cast<int64_t>(at),
                                       .data = absl::string_view(bytes).substr(at, size),
                                       .finish = at + size == bytes.size()});
      if (!next.ok()) return next.status();
      at += size;
    } while (at < bytes.size() && at < stop_after);
    return absl::OkStatus();
  }
  static absl::Status Upload(S3ArtifactStore* store, const std::string& bytes,
                             size_t stop_after = ~size_t{0}) {
    return Upload(store, BlobOf(bytes), bytes, stop_after);
  }
  static std::string Download(S3ArtifactStore* store, const std::string& sha256) {
    const auto reader = store->Open(sha256);
    EXPECT_TRUE(reader.ok()) << reader.status();
    std::string bytes;
    while (reader.ok() && static_cast<int64_t>(bytes.size()) < (*reader)->size_bytes()) {
      const auto piece = (*reader)->Read(static_cast<int64_t>(bytes.size()), 70'001);
      EXPECT_TRUE(piece.ok()) << piece.status();
      if (!piece.ok() || piece->empty()) break;
      bytes += *piece;
    }
    return bytes;
  }
  void ExpectThere(S3ArtifactStore* store, const std::string& bytes) {
    EXPECT_EQ(Sha256Hex(Download(store, BlobOf(bytes).sha256())), Sha256Hex(bytes));
  }
  size_t OpenUploads() { return S3Client(config_).OpenUploads()->size(); }

  S3Server* server_ = nullptr;
  std::string folder_;
  S3Config config_;
};

TEST_F(S3StoreTest, AStartSaysWhatIsWrong) {
  const S3Config right = config_;
  config_.bucket = "nowhere";
  EXPECT_THAT(OpenError(), HasSubstr("NoSuchBucket"));
  EXPECT_THAT(OpenError(), HasSubstr("create the bucket"));
  config_ = right;
  config_.keys.access_key = "nobody";
  EXPECT_THAT(OpenError(), HasSubstr("AWS_ACCESS_KEY_ID"));
  config_ = right;
  config_.keys.secret_key = "wrong";
  EXPECT_THAT(OpenError(), HasSubstr("AWS_SECRET_ACCESS_KEY"));
  config_ = right;
  config_.attempts = 1;
  config_.endpoint = "http://127.0.0.1:1";
  EXPECT_THAT(OpenError(), HasSubstr("127.0.0.1:1"));
  config_.endpoint = "https" + right.endpoint.substr(4);
  EXPECT_THAT(OpenError(), HasSubstr("UNAVAILABLE")) << "TLS where none is spoken";
}

TEST_F(S3StoreTest, BlobsOfOneAndManyPartsAreSharedBySchedulers) {
  auto store = Open();
  auto other = Open("other");
  for (const size_t size : {0, 1, 65'536, 65'537, 1'000'003}) {
    const std::string bytes = Bytes(size, size);
    EXPECT_FALSE(*other->Has(BlobOf(bytes)));
    EXPECT_TRUE(absl::IsNotFound(other->Open(BlobOf(bytes).sha256()).status()));
    ASSERT_TRUE(Upload(store.get(), bytes).ok());
    EXPECT_TRUE(*other->Has(BlobOf(bytes)));
    EXPECT_TRUE(other->StartUpload(BlobOf(bytes))->complete);
    ExpectThere(other.get(), bytes);
  }
  EXPECT_EQ(OpenUploads(), 0u);
  ASSERT_TRUE(other->SweepBucket(absl::Now()).ok());
  EXPECT_EQ(other->Usage().blob_bytes, 1 + 65'536 + 65'537 + 1'000'003);
  v1::Artifact artifact;
  artifact.mutable_manifest()->set_sha256(Sha256Hex("m"));
  artifact.set_name("tenants/t/artifacts/" + artifact.manifest().sha256());
  ASSERT_TRUE(store->PutArtifact(artifact).ok());
  EXPECT_EQ(other->ListArtifacts("t", "", 10)->size(), 1u);
}

TEST_F(S3StoreTest, WhatAnotherSchedulerRemovedIsForgottenWhenTold) {
  auto store = Open();
  auto other = Open("other");
  const std::string bytes = "here and gone";
  ASSERT_TRUE(Upload(store.get(), bytes).ok());
  ASSERT_TRUE(*other->Has(BlobOf(bytes)));
  ASSERT_TRUE(store->RemoveBlob(BlobOf(bytes).sha256()).ok());
  EXPECT_FALSE(*store->Has(BlobOf(bytes)));
  other->Forget();
  EXPECT_FALSE(*other->Has(BlobOf(bytes)));
}

TEST_F(S3StoreTest, TheBucketMayBeAPartOfTheHostsName) {
  const size_t port = config_.endpoint.rfind(':');
  config_.endpoint = "http://localhost" + config_.endpoint.substr(port);
  config_.path_style = false;
  auto store = Open();
  ASSERT_NE(store, nullptr);
  const std::string bytes = Bytes(6 * kPart, 12);
  ASSERT_TRUE(Upload(store.get(), bytes).ok());
  HttpRequest request;
  request.url = (*store->Open(BlobOf(bytes).sha256()))->Link();
  EXPECT_THAT(request.url, HasSubstr("//bucket.localhost:"));
  EXPECT_EQ(Sha256Hex(PerformHttp(request)->body), Sha256Hex(bytes));
  config_ = server_->Config(config_.prefix);
  ExpectThere(Open("other").get(), bytes);
}

TEST_F(S3StoreTest, AnUploadMayGoOnAtAnotherScheduler) {
  auto store = Open(), other = Open("other");
  const std::string bytes = Bytes(500'000, 1);
  const std::string name = store->StartUpload(BlobOf(bytes))->upload;
  const absl::string_view all = bytes;
  ASSERT_TRUE(store->Append({.upload = name, .data = all.substr(0, 300'000)}).ok());
  // The other one has none of the bytes, and says so; it takes them from the start.
  EXPECT_TRUE(absl::IsOutOfRange(
      other->Append({.upload = name, .offset_bytes = 300'000, .data = all.substr(300'000)})
          .status()));
  ASSERT_TRUE(other->Append({.upload = name, .data = all, .finish = true})->complete);
  EXPECT_TRUE(store
                  ->Append({.upload = name,
                            .offset_bytes = 300'000,
                            .data = all.substr(300'000),
                            .finish = true})
                  ->complete);
  ExpectThere(store.get(), bytes);
  EXPECT_EQ(OpenUploads(), 0u);
}

TEST_F(S3StoreTest, AKilledUploadGoesOnWithThePartsThatAreThere) {
  const std::string bytes = Bytes(20 * kPart + 5, 2);
  ASSERT_TRUE(Upload(Open().get(), bytes, 13 * kPart).ok());
  EXPECT_EQ(OpenUploads(), 1u);
  const int64_t before = server_->Count("PUT partNumber");
  auto store = Open();
  ASSERT_TRUE(Upload(store.get(), bytes).ok());
  EXPECT_EQ(server_->Count("PUT partNumber") - before, 21 - 12) << "groups of four went up before";
  ExpectThere(store.get(), bytes);
  EXPECT_EQ(OpenUploads(), 0u);
}

TEST_F(S3StoreTest, PartsOfBytesThatWereLostAreNotBelieved) {
  const std::string bytes = Bytes(12 * kPart, 3);
  const v1::Blob blob = BlobOf(bytes);
  std::string lie = bytes;
  lie[100] ^= 1;
  ASSERT_TRUE(Upload(Open().get(), blob, lie, 9 * kPart).ok());
  // A power cut: the file is back at nothing, the journal and the parts are there.
  const std::string partial =
      absl::StrCat(folder_, "/local/partials/", blob.sha256(), "-", bytes.size(), ".partial");
  ASSERT_EQ(truncate(partial.c_str(), 0), 0);
  auto store = Open();
  const std::string name = store->StartUpload(blob)->upload;
  ASSERT_TRUE(store->Append({.upload = name, .data = bytes, .finish = true})->complete);
  ExpectThere(store.get(), bytes);
}

// Killed between the storage's answer and our writing it down.
TEST_F(S3StoreTest, AnUploadOfWhichOnlyTheIntentIsKnownIsAborted) {
  const std::string bytes = Bytes(11 * kPart, 6);
  ASSERT_TRUE(Upload(Open().get(), bytes, 9 * kPart).ok());
  ASSERT_EQ(OpenUploads(), 1u);
  const v1::Blob blob = BlobOf(bytes);
  const std::string journal =
      absl::StrCat(folder_, "/local/journals/", blob.sha256(), "-", bytes.size());
  const std::string first = *ReadFile(journal);
  const size_t id = first.find(' ') + 1, end = first.find(' ', id);
  ASSERT_TRUE(WriteFileAtomic(journal, absl::StrCat(first.substr(0, id), first.substr(end))).ok());
  config_.attempts = 2;
  {
    auto store = Open();
    server_->Fault(R"({"kind": "slow_down", "method": "GET", "match": "uploads", "count": 2})");
    EXPECT_FALSE(Upload(store.get(), bytes).ok()) << "what cannot be aborted is not forgotten";
    ASSERT_TRUE(Upload(store.get(), bytes).ok());
    ExpectThere(store.get(), bytes);
  }
  EXPECT_EQ(OpenUploads(), 0u);
}

TEST_F(S3StoreTest, AnUploadThatTheStorageThrewAwayBeginsAgain) {
  const std::string bytes = Bytes(11 * kPart, 4);
  auto store = Open();
  ASSERT_TRUE(Upload(store.get(), bytes, 9 * kPart).ok());
  S3Client client(config_);
  const auto open_uploads = client.OpenUploads();
  ASSERT_EQ(open_uploads->size(), 1u);
  ASSERT_TRUE(client.AbortParts(open_uploads->front().key, open_uploads->front().id).ok());
  const absl::Status status = Upload(store.get(), bytes);
  ASSERT_TRUE(status.ok()) << status;
  ExpectThere(store.get(), bytes);
}

TEST_F(S3StoreTest, WrongBytesLeaveNothingBehind) {
  auto store = Open();
  std::string bytes = Bytes(9 * kPart, 5);
  const v1::Blob announced = BlobOf(bytes);
  bytes[12345] ^= 1;
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(store.get(), announced, bytes)));
  EXPECT_FALSE(*store->Has(announced));
  EXPECT_EQ(OpenUploads(), 0u);
  bytes[12345] ^= 1;
  ASSERT_TRUE(Upload(store.get(), announced, bytes).ok());
  ExpectThere(store.get(), bytes);
}

TEST_F(S3StoreTest, SlowDownAndCutConnectionsAreTriedAgain) {
  auto store = Open();
  const std::string bytes = Bytes(9 * kPart, 6);
  server_->Fault(R"({"kind": "slow_down", "method": "PUT", "match": "partNumber", "count": 2})");
  server_->Fault(R"({"kind": "cut", "method": "PUT", "match": "partNumber", "skip": 4})");
  // The storage did it and the answer was lost.
  server_->Fault(R"({"kind": "cut_body", "method": "POST", "match": "uploadId"})");
  ASSERT_TRUE(Upload(store.get(), bytes).ok());
  server_->Fault(R"({"kind": "cut_body", "method": "GET", "match": "blobs"})");
  server_->Fault(R"({"kind": "slow_down", "method": "GET", "match": "blobs", "count": 1})");
  ExpectThere(store.get(), bytes);
}

TEST_F(S3StoreTest, AnErrorThatStaysIsUnavailableAndCostsNothing) {
  config_.attempts = 2;
  auto store = Open();
  const std::string bytes = Bytes(9 * kPart, 7);
  server_->Fault(R"({"kind": "slow_down", "method": "POST", "match": "uploadId", "count": 2})");
  const absl::Status status = Upload(store.get(), bytes);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("SlowDown"));
  EXPECT_FALSE(*store->Has(BlobOf(bytes)));
  const int64_t before = server_->Count("PUT partNumber");
  // The bytes are whole in the folder: asking again is enough.
  EXPECT_TRUE(store->StartUpload(BlobOf(bytes))->complete);
  EXPECT_EQ(server_->Count("PUT partNumber"), before);
  ExpectThere(store.get(), bytes);
}

TEST_F(S3StoreTest, AFrozenServerIsGivenUpAndComesBack) {
  config_.attempts = 1;
  config_.stall = absl::Seconds(1);
  auto store = Open();
  const std::string bytes = Bytes(6 * kPart, 8);
  server_->Freeze();
  const absl::Status status = Upload(store.get(), bytes);
  EXPECT_TRUE(absl::IsUnavailable(store->GetArtifact("t", std::string(64, 'a')).status()));
  server_->Thaw();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  ASSERT_TRUE(Upload(store.get(), bytes).ok());
  ExpectThere(store.get(), bytes);
}

TEST_F(S3StoreTest, KeysThatAreReplacedInTheirFileAreReadAgain) {
  const std::string path = folder_ + "/keys";
  const auto write = [&](const std::string& secret) {
    ASSERT_TRUE(
        WriteFileAtomic(path, absl::StrCat("[default]\naws_access_key_id=", config_.keys.access_key,
                                           "\naws_secret_access_key=", secret, "\n"))
            .ok());
  };
  config_.keys_file = path;
  write(config_.keys.secret_key);
  config_.keys.secret_key = "of yesterday";
  auto store = Open();
  ASSERT_NE(store, nullptr);
  ASSERT_TRUE(Upload(store.get(), "hello").ok());
}

TEST_F(S3StoreTest, StaleUploadsAreAborted) {
  const std::string bytes = Bytes(9 * kPart, 9);
  auto store = Open();
  ASSERT_TRUE(Upload(store.get(), bytes, 8 * kPart).ok());
  auto other = Open("other");
  ASSERT_TRUE(store->SweepBucket(absl::Now()).ok());
  ASSERT_TRUE(other->SweepBucket(absl::Now() + absl::Hours(24 * 6)).ok());
  EXPECT_EQ(OpenUploads(), 1u) << "another scheduler may be at it";
  ASSERT_TRUE(store->SweepBucket(absl::Now() + absl::Hours(25)).ok());
  EXPECT_EQ(OpenUploads(), 0u);
  // Whoever comes after all loses nothing but time.
  ASSERT_TRUE(Upload(store.get(), bytes).ok());
  ExpectThere(store.get(), bytes);
  const std::string lost = Bytes(9 * kPart, 10);
  ASSERT_TRUE(Upload(store.get(), lost, 8 * kPart).ok());
  ASSERT_TRUE(other->SweepBucket(absl::Now() + absl::Hours(24 * 8)).ok());
  EXPECT_EQ(OpenUploads(), 0u);
}

TEST_F(S3StoreTest, ALinkGivesTheBytesToWhoeverHasIt) {
  auto store = Open();
  const std::string bytes = Bytes(3 * kPart, 11);
  ASSERT_TRUE(Upload(store.get(), bytes).ok());
  HttpRequest request;
  request.url = (*store->Open(BlobOf(bytes).sha256()))->Link();
  request.offset_bytes = 1000;
  auto answer = PerformHttp(request);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 206);
  EXPECT_EQ(Sha256Hex(answer->body), Sha256Hex(bytes.substr(1000)));
  request.url.back() = request.url.back() == '0' ? '1' : '0';
  EXPECT_EQ(PerformHttp(request)->status, 403);
}

}  // namespace
}  // namespace quantd
