// An engine's files by the names that it gives them: none but its own is ever read, also while it
// puts links in their places.
#include "workers/agent/manifest.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/file.h"
#include "base/sha256.h"
#include "base/testing/evil_paths.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

class OwnFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/quantd_own_file_XXXXXX";
    base_ = mkdtemp(pattern);
    folder_ = base_ + "/job/output";
    ASSERT_TRUE(MakeFolders(folder_ + "/sub").ok());
    ASSERT_TRUE(MakeFolders(base_ + "/secrets").ok());
    ASSERT_TRUE(WriteFileAtomic(base_ + "/secrets/file", "secret").ok());
    ASSERT_TRUE(WriteFileAtomic(folder_ + "/sub/file", "own").ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(base_).ok()); }
  absl::Status Open(const std::string& relative) const {
    return OwnFile::Open(folder_, relative).status();
  }

  std::string base_, folder_;
};

TEST_F(OwnFileTest, IsWhatItWasWhenItWasOpened) {
  const absl::StatusOr<OwnFile> file = OwnFile::Open(folder_, "sub/file");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/sub/file", "another").ok());
  EXPECT_EQ(file->Hash()->sha256(), Sha256Hex("own"));
  EXPECT_EQ(file->Hash()->size_bytes(), 3);
  EXPECT_EQ(ReadFile(file->path()).value_or(""), "own");
  EXPECT_TRUE(absl::IsNotFound(Open("sub/none")));
}

TEST_F(OwnFileTest, NothingElseIsOpened) {
  for (const std::string& path : EvilPaths()) {
    EXPECT_TRUE(absl::IsInvalidArgument(Open(path))) << path;
  }
  ASSERT_EQ(symlink("../../../secrets/file", (folder_ + "/sub/link").c_str()), 0);
  ASSERT_EQ(symlink("../../secrets", (folder_ + "/folder").c_str()), 0);
  ASSERT_EQ(mkfifo((folder_ + "/pipe").c_str(), 0600), 0);
  for (const char* path : {"sub/link", "folder/file", "sub", "pipe", "sub/file/x"}) {
    const absl::Status status = Open(path);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << path << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(folder_)) << path;
  }
}

// File and folder change places with links to a secret all the time.
TEST_F(OwnFileTest, ALinkPutInItsPlaceIsNotFollowed) {
  ASSERT_EQ(symlink("../../secrets", (folder_ + "/link").c_str()), 0);
  ASSERT_EQ(symlink("../../../secrets/file", (folder_ + "/sub/link").c_str()), 0);
  std::atomic<bool> stop{false};
  // Within a folder that was opened before: the secret's own stays as it is.
  const auto exchange = [&](const std::string& folder, const char* a, const char* b) {
    return std::thread([&stop, a, b, fd = open(folder.c_str(), O_PATH | O_DIRECTORY)] {
      while (!stop) renameat2(fd, a, fd, b, RENAME_EXCHANGE);
      close(fd);
    });
  };
  std::thread files = exchange(folder_ + "/sub", "file", "link");
  std::thread folders = exchange(folder_, "sub", "link");
  int read = 0;
  for (int i = 0; i < 20'000 && !HasFailure(); ++i) {
    const absl::StatusOr<OwnFile> file = OwnFile::Open(folder_, "sub/file");
    if (!file.ok()) continue;
    ++read;
    EXPECT_EQ(ReadFile(file->path()).value_or(""), "own");
  }
  stop = true;
  folders.join();
  files.join();
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace quantd
