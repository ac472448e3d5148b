// The conformance test of every ArtifactStore: uploads cut anywhere, doubled, overlapping and
// wrong; and the names that must never become paths. What is the folder's own stands at the end;
// what is S3's own is in s3_artifact_store_test.cc.
#include "server/artifacts/artifact_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <utime.h>

#include <filesystem>
#include <iostream>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/testing/evil_paths.h"
#include "proto/errors.h"
#include "server/artifacts/local_artifact_store.h"
#include "server/artifacts/s3_artifact_store.h"
#include "server/artifacts/secret.h"
#include "server/artifacts/testing/s3_server.h"

namespace quantd {
namespace {

using Opened = absl::StatusOr<std::unique_ptr<ArtifactStore>>;

struct StoreFactory {
  const char* name;
  bool (*available)();
  Opened (*open)(const LocalArtifactStoreOptions& options);
};

const StoreFactory kStores[] = {
    {"local", [] { return true; },
     [](const LocalArtifactStoreOptions& options) -> Opened {
       return LocalArtifactStore::Open(options, absl::Now());
     }},
    {"s3", &S3Server::Available,
     [](const LocalArtifactStoreOptions& options) -> Opened {
       S3Config config = SharedS3Server().Config(options.folder.substr(1) + "/");
       config.part_bytes = 1024;  // Most of what is sent here has many parts.
       return S3ArtifactStore::Open(config, options, absl::Now());
     }},
};

class ArtifactStoreTest : public testing::TestWithParam<StoreFactory> {
 protected:
  void SetUp() override {
    if (!GetParam().available()) GTEST_SKIP() << "QUANTD_S3_SERVER has none; ./dev test sets it";
    char pattern[] = "/tmp/quantd_artifacts_XXXXXX";
    folder_ = mkdtemp(pattern);
    Reopen();
  }
  void TearDown() override {
    store_.reset();
    if (folder_.empty()) return;
    EXPECT_TRUE(RemoveTree(folder_).ok());
  }

  void Reopen(int64_t free_bytes_min = 0) {
    store_.reset();
    LocalArtifactStoreOptions options;
    options.folder = folder_;
    options.free_bytes_min = free_bytes_min;
    auto store = GetParam().open(options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  static v1::Blob BlobOf(const std::string& data) {
    v1::Blob blob;
    blob.set_sha256(Sha256Hex(data));
    blob.set_size_bytes(static_cast<int64_t>(data.size()));
    return blob;
  }
  std::string Contents(const v1::Blob& blob) {
    auto reader = store_->Open(blob.sha256());
    EXPECT_TRUE(reader.ok()) << reader.status();
    return reader.ok() ? (*reader)->Read(0, 1 << 30).value() : "";
  }
  int64_t Partials() {
    const auto range = std::filesystem::directory_iterator(folder_ + "/partials");
    return std::distance(begin(range), end(range));
  }

  std::string folder_;
  std::unique_ptr<ArtifactStore> store_;
};

std::string RandomBytes(size_t size_bytes, std::mt19937_64* random) {
  std::string data(size_bytes, '\0');
  for (char& c : data) c = static_cast<char>((*random)());
  return data;
}

TEST_P(ArtifactStoreTest, UploadsCutAtRandomOffsetsAreResumed) {
  const uint64_t seed = std::random_device{}();
  std::cerr << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  for (int round = 0; round < 30; ++round) {
    const std::string data = RandomBytes(random() % 20'000, &random);
    const v1::Blob blob = BlobOf(data);
    for (;;) {
      const auto start = store_->StartUpload(blob);
      ASSERT_TRUE(start.ok()) << start.status();
      if (start->complete) break;
      // Goes back a little, so that bytes come twice.
      int64_t offset = start->committed_bytes -
                       static_cast<int64_t>(random() % (start->committed_bytes + 1)) / 2;
      for (int chunks = static_cast<int>(random() % 4); chunks >= 0; --chunks) {
        const std::string part = data.substr(static_cast<size_t>(offset), random() % 5'000);
        const bool last = offset + static_cast<int64_t>(part.size()) == blob.size_bytes();
        const auto state = store_->Append(
            {.upload = start->upload, .offset_bytes = offset, .data = part, .finish = last});
        ASSERT_TRUE(state.ok()) << state.status();
        if (state->complete) break;
        offset = state->committed_bytes;
      }
      if (random() % 4 == 0) Reopen();
    }
    EXPECT_EQ(Contents(blob), data);
    EXPECT_TRUE(store_->Has(blob).value());
  }
  EXPECT_EQ(Partials(), 0);
}

TEST_P(ArtifactStoreTest, GapsOverrunsEarlyEndsAndForeignNamesAreRefused) {
  const v1::Blob blob = BlobOf("hello world");
  const std::string upload = store_->StartUpload(blob)->upload;
  ASSERT_TRUE(store_->Append({.upload = upload, .offset_bytes = 0, .data = "hello"}).ok());
  const auto gap =
      store_->Append({.upload = upload, .offset_bytes = 6, .data = "world", .finish = true});
  EXPECT_EQ(gap.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(gap.status()), kReasonUploadGap);
  EXPECT_EQ(ReasonMetadata(gap.status(), "committed_bytes"), "5");
  EXPECT_FALSE(store_->Append({.upload = upload, .offset_bytes = 5, .data = " world!"}).ok());
  EXPECT_FALSE(store_->Append({.upload = upload, .offset_bytes = -1, .data = "x"}).ok());
  EXPECT_FALSE(
      store_->Append({.upload = upload, .offset_bytes = 5, .data = "", .finish = true}).ok());
  std::string forged = upload;
  forged[10] = forged[10] == 'a' ? 'b' : 'a';
  for (const std::string& name : {forged, std::string("../../etc/passwd"), std::string(),
                                  absl::StrCat("uploads/x/", blob.sha256(), "/11")}) {
    EXPECT_EQ(store_->Append({.upload = name, .data = "x"}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(store_->Has(blob).value());
  EXPECT_TRUE(
      store_->Append({.upload = upload, .offset_bytes = 3, .data = "lo world", .finish = true})
          ->complete);
  EXPECT_EQ(Contents(blob), "hello world");
  // Somebody else's late chunk: done already.
  EXPECT_TRUE(store_->Append({.upload = upload, .offset_bytes = 0, .data = "hello"})->complete);
  EXPECT_TRUE(store_->StartUpload(blob)->complete);
}

TEST_P(ArtifactStoreTest, AMismatchDiscardsTheUpload) {
  const v1::Blob blob = BlobOf("hello");
  const std::string upload = store_->StartUpload(blob)->upload;
  const auto wrong =
      store_->Append({.upload = upload, .offset_bytes = 0, .data = "jello", .finish = true});
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Partials(), 0);
  EXPECT_FALSE(store_->Has(blob).value());
  EXPECT_EQ(store_->StartUpload(blob)->committed_bytes, 0);
  EXPECT_EQ(store_->Usage().verify_failures, 1);
  EXPECT_TRUE(store_->Append({.upload = upload, .offset_bytes = 0, .data = "hello", .finish = true})
                  ->complete);
}

TEST_P(ArtifactStoreTest, TwoWritersOfOneBlobBothSucceed) {
  std::mt19937_64 random(7);
  const std::string data = RandomBytes(300'000, &random);
  const v1::Blob blob = BlobOf(data);
  const auto write = [&] {
    const auto start = store_->StartUpload(blob);
    ASSERT_TRUE(start.ok());
    for (size_t at = 0; at < data.size(); at += 1000) {
      const auto state = store_->Append({.upload = start->upload,
                                         .offset_bytes = static_cast<int64_t>(at),
                                         .data = absl::string_view(data).substr(at, 1000),
                                         .finish = at + 1000 >= data.size()});
      ASSERT_TRUE(state.ok()) << state.status();
    }
  };
  std::thread other(write);
  write();
  other.join();
  EXPECT_EQ(Contents(blob), data);
}

TEST_P(ArtifactStoreTest, TheDiskReserveIsKept) {
  Reopen(int64_t{1} << 60);
  const auto refused = store_->StartUpload(BlobOf("x"));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused.status()), kReasonDiskLow);
  EXPECT_TRUE(RetryAfterOf(refused.status()).has_value());
  EXPECT_FALSE(store_->Health().ok());
}

TEST_P(ArtifactStoreTest, StaleUploadsAreSweptAtStart) {
  const v1::Blob old_blob = BlobOf("old upload"), new_blob = BlobOf("new upload");
  for (const v1::Blob& blob : {old_blob, new_blob}) {
    const auto start = store_->StartUpload(blob);
    ASSERT_TRUE(store_->Append({.upload = start->upload, .offset_bytes = 0, .data = "abc"}).ok());
  }
  const std::string path = absl::StrCat(folder_, "/partials/", old_blob.sha256(), "-10.partial");
  const struct utimbuf times = {1'000'000'000, 1'000'000'000};
  ASSERT_EQ(utime(path.c_str(), &times), 0);
  Reopen();
  EXPECT_EQ(store_->StartUpload(old_blob)->committed_bytes, 0);
  EXPECT_EQ(store_->StartUpload(new_blob)->committed_bytes, 3);
}

TEST_P(ArtifactStoreTest, ManifestsAreCheckedAndListed) {
  v1::Manifest manifest;
  auto* file = manifest.add_files();
  file->set_path("b/model.safetensors");
  *file->mutable_blob() = BlobOf("model");
  file = manifest.add_files();
  file->set_path("a");
  *file->mutable_blob() = BlobOf("a");
  v1::Manifest resolved = manifest;
  ASSERT_TRUE(ResolveManifest(&resolved).ok());
  EXPECT_EQ(resolved.total_bytes(), 6);
  EXPECT_EQ(resolved.sha256(), Sha256Hex(absl::StrCat(Sha256Hex("a"), " 1 a\n", Sha256Hex("model"),
                                                      " 5 b/model.safetensors\n")));
  EXPECT_TRUE(ResolveManifest(&resolved).ok());
  std::vector<std::string> paths = EvilPaths();
  paths.insert(paths.end(), {"a", "a/b", "b"});  // There already, or a file and a folder at once.
  for (const std::string& path : paths) {
    v1::Manifest evil = manifest;
    auto* added = evil.add_files();
    added->set_path(path);
    *added->mutable_blob() = BlobOf("a");
    EXPECT_FALSE(ResolveManifest(&evil).ok()) << path;
  }
  v1::Manifest wrong = resolved;
  wrong.set_total_bytes(7);
  EXPECT_FALSE(ResolveManifest(&wrong).ok());

  v1::Artifact artifact;
  artifact.set_name("tenants/t/artifacts/" + resolved.sha256());
  *artifact.mutable_manifest() = resolved;
  ASSERT_TRUE(store_->PutArtifact(artifact).ok());
  EXPECT_EQ(store_->GetArtifact("t", resolved.sha256())->manifest().total_bytes(), 6);
  EXPECT_EQ(store_->GetArtifact("u", resolved.sha256()).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(store_->GetArtifact("../t", resolved.sha256()).ok());
  EXPECT_EQ(store_->ListArtifacts("t", "", 10)->size(), 1u);
  EXPECT_TRUE(store_->ListArtifacts("t", resolved.sha256(), 10)->empty());
  EXPECT_TRUE(store_->ListArtifacts("u", "", 10)->empty());
  artifact.set_name("tenants/../artifacts/" + resolved.sha256());
  EXPECT_FALSE(store_->PutArtifact(artifact).ok());
}

TEST_P(ArtifactStoreTest, EverythingIsListedInOrderAndRemoved) {
  std::vector<std::string> digests;
  for (int i = 0; i < 7; ++i) {
    const std::string data = absl::StrCat("blob ", i);
    const auto start = store_->StartUpload(BlobOf(data));
    ASSERT_TRUE(
        store_->Append({.upload = start->upload, .offset_bytes = 0, .data = data, .finish = true})
            .ok());
    digests.push_back(BlobOf(data).sha256());
  }
  std::sort(digests.begin(), digests.end());
  const int64_t bytes = store_->Usage().blob_bytes;
  std::vector<std::string> listed;
  for (std::string after;;) {
    const auto page = store_->ListBlobs(after, 3);
    ASSERT_TRUE(page.ok()) << page.status();
    if (page->empty()) break;
    EXPECT_LE(page->size(), 3u);
    for (const v1::Blob& blob : *page) {
      listed.push_back(blob.sha256());
      EXPECT_EQ(blob.size_bytes(), 6);
    }
    after = listed.back();
  }
  EXPECT_EQ(listed, digests);
  // In the order of their names, in which "a-b/" comes before "a/".
  std::vector<std::string> names;
  for (const char* tenant : {"a", "a-b", "b"}) {
    for (const std::string& digest : {digests[0], digests[1]}) {
      v1::Artifact artifact;
      artifact.set_name(absl::StrCat("tenants/", tenant, "/artifacts/", digest));
      ASSERT_TRUE(store_->PutArtifact(artifact).ok());
      names.push_back(artifact.name());
    }
  }
  std::sort(names.begin(), names.end());
  std::vector<std::string> named;
  for (std::string after;;) {
    const auto page = store_->ListNames(after, 4);
    ASSERT_TRUE(page.ok()) << page.status();
    if (page->empty()) break;
    named.insert(named.end(), page->begin(), page->end());
    after = named.back();
  }
  EXPECT_EQ(named, names);

  const auto open = store_->Open(digests[0]);
  EXPECT_EQ((*open)->Read(0, 100)->size(), 6u);
  v1::Blob removed;
  removed.set_sha256(digests[0]);
  removed.set_size_bytes(6);
  EXPECT_TRUE(*store_->Has(removed));
  ASSERT_TRUE(store_->RemoveBlob(digests[0]).ok());
  ASSERT_TRUE(store_->RemoveBlob(digests[0]).ok()) << "again";
  EXPECT_FALSE(*store_->Has(removed));
  EXPECT_TRUE(absl::IsNotFound(store_->Open(digests[0]).status()));
  EXPECT_EQ(store_->ListBlobs("", 100)->size(), 6u);
  EXPECT_EQ(store_->Usage().blob_bytes, bytes - 6);
  ASSERT_TRUE(store_->RemoveArtifact("a", digests[1]).ok());
  ASSERT_TRUE(store_->RemoveArtifact("a", digests[1]).ok()) << "again";
  EXPECT_TRUE(absl::IsNotFound(store_->GetArtifact("a", digests[1]).status()));
  EXPECT_EQ(store_->ListNames("", 100)->size(), 5u);
  store_->Forget();
  EXPECT_TRUE(*store_->Has([&] {
    v1::Blob there = removed;
    there.set_sha256(digests[1]);
    return there;
  }()));
}

INSTANTIATE_TEST_SUITE_P(Stores, ArtifactStoreTest, ::testing::ValuesIn(kStores),
                         [](const auto& info) { return info.param.name; });

TEST(Secret, TokensAreSealed) {
  const std::string token = SealToken("secret", "inner");
  EXPECT_EQ(OpenToken("secret", token, "page_token").value(), "inner");
  EXPECT_EQ(OpenToken("secret", "", "page_token").value(), "");
  EXPECT_FALSE(OpenToken("other", token, "page_token").ok());
  EXPECT_FALSE(OpenToken("secret", token + "A", "page_token").ok());
  EXPECT_FALSE(OpenToken("secret", "nonsense", "page_token").ok());
}

}  // namespace
}  // namespace quantd
