// Several parts are a group of threads that are waited for: nothing goes on in the background.
#include "server/artifacts/s3_upload.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

// One connection to an object store carries some 50 to 100 MB/s.
constexpr int64_t kPartsAtOnce = 4;
constexpr int64_t kPartsMax = 10'000;  // The protocol's.
constexpr int64_t kReadBytes = 1 << 20;
constexpr int64_t kJournalBytesMax = 4 << 20;

absl::Status ReadAt(int fd, int64_t offset_bytes, char* out, size_t size_bytes) {
  while (size_bytes > 0) {
    const ssize_t got = pread(fd, out, size_bytes, offset_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "reading a blob");
    if (got == 0) return absl::DataLossError("a blob became shorter while it was sent");
    out += got;
    offset_bytes += got;
    size_bytes -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

int64_t PartBytes(int64_t size_bytes, int64_t wanted_bytes) {
  return std::max(wanted_bytes, (size_bytes + kPartsMax - 1) / kPartsMax);
}

}  // namespace

absl::StatusOr<S3UploadId> ReadS3Journal(const std::string& path) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kJournalBytesMax));
  const std::vector<std::string> words = absl::StrSplit(text.substr(0, text.find('\n')), ' ');
  if (words.size() != 3) return absl::DataLossError(absl::StrCat(path, " is damaged"));
  return S3UploadId{.key = words[0], .id = words[1]};
}

absl::Status AbortS3Upload(S3Client* client, const S3UploadId& upload) {
  if (!upload.id.empty()) return client->AbortParts(upload.key, upload.id);
  QD_ASSIGN_OR_RETURN(const std::vector<S3OpenUpload> open, client->OpenUploads(upload.key));
  for (const S3OpenUpload& each : open) {
    if (each.key == upload.key) QD_RETURN_IF_ERROR(client->AbortParts(each.key, each.id));
  }
  return absl::OkStatus();
}

S3Upload::S3Upload(std::shared_ptr<S3Client> client, std::string key, int64_t size_bytes,
                   std::string journal)
    : client_(std::move(client)),
      key_(std::move(key)),
      size_bytes_(size_bytes),
      part_bytes_(PartBytes(size_bytes, client_->config().part_bytes)),
      parts_total_((size_bytes + part_bytes_ - 1) / part_bytes_),
      journal_(std::move(journal)) {}

S3Upload::~S3Upload() {
  if (fd_ >= 0) close(fd_);
}

int64_t S3Upload::SizeOf(int64_t part) const {
  return std::min(part_bytes_, size_bytes_ - part * part_bytes_);
}

absl::Status S3Upload::OpenFile(const std::string& file) {
  if (fd_ >= 0) return absl::OkStatus();
  fd_ = open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd_ < 0) return ErrnoStatus(errno, "opening ", file);
  return absl::OkStatus();
}

absl::StatusOr<std::string> S3Upload::DigestOf(int64_t part) const {
  Sha256 digest;
  std::string buffer(static_cast<size_t>(std::min(kReadBytes, SizeOf(part))), '\0');
  for (int64_t at = 0; at < SizeOf(part);) {
    const size_t size =
        static_cast<size_t>(std::min(static_cast<int64_t>(buffer.size()), SizeOf(part) - at));
    QD_RETURN_IF_ERROR(ReadAt(fd_, part * part_bytes_ + at, buffer.data(), size));
    digest.Update(buffer.data(), size);
    at += static_cast<int64_t>(size);
  }
  return digest.HexDigest();
}

absl::Status S3Upload::TakeUp(int64_t committed_bytes) {
  if (taken_up_) return absl::OkStatus();
  if (FileExists(journal_)) {
    QD_RETURN_IF_ERROR(ReadJournal(committed_bytes));
    LogInfo("upload taken up", {{"key", key_}, {"parts", parts_.size()}});
  }
  taken_up_ = true;
  return absl::OkStatus();
}

absl::Status S3Upload::ReadJournal(int64_t committed_bytes) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(journal_, kJournalBytesMax));
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  int64_t part_bytes = 0;
  std::vector<std::string> words;
  if (!lines.empty()) words = absl::StrSplit(lines[0], ' ');
  if (words.size() != 3 || words[0] != key_ || words[1].empty() ||
      !absl::SimpleAtoi(words[2], &part_bytes) || part_bytes != part_bytes_) {
    return AbortS3Upload(client_.get(), {.key = key_, .id = ""});  // Begins anew.
  }
  id_ = words[1];
  parts_.clear();
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::vector<std::string> entry = absl::StrSplit(lines[i], ' ');
    const int64_t part = static_cast<int64_t>(parts_.size());
    if (entry.size() != 2 || part >= parts_total_ ||
        part * part_bytes_ + SizeOf(part) > committed_bytes) {
      break;
    }
    QD_ASSIGN_OR_RETURN(const std::string digest, DigestOf(part));
    if (digest != entry[1]) break;
    parts_.push_back({.tag = entry[0], .sha256 = digest});
  }
  return absl::OkStatus();
}

absl::Status S3Upload::WriteJournal() {
  std::string text = absl::StrCat(key_, " ", id_, " ", part_bytes_, "\n");
  for (const Part& part : parts_) absl::StrAppend(&text, part.tag, " ", part.sha256, "\n");
  return WriteFileAtomic(journal_, text);
}

void S3Upload::Forget() {
  unlink(journal_.c_str());
  id_.clear();
  parts_.clear();
}

absl::StatusOr<S3Upload::Part> S3Upload::SendOne(int64_t part, const std::string& id) const {
  QD_ASSIGN_OR_RETURN(const std::string digest, DigestOf(part));
  const HttpBody bytes = {.size_bytes = SizeOf(part),
                          .read = [this, part](int64_t offset, char* out, size_t size) {
                            return ReadAt(fd_, part * part_bytes_ + offset, out, size);
                          }};
  QD_ASSIGN_OR_RETURN(std::string tag, client_->PutPart(key_, id, static_cast<int>(part) + 1,
                                                        {.bytes = bytes, .sha256 = digest}));
  return Part{.tag = std::move(tag), .sha256 = digest};
}

absl::Status S3Upload::SendTo(int64_t parts_end) {
  if (id_.empty()) {
    QD_RETURN_IF_ERROR(WriteJournal());  // Nameless: from here on there may be one to abort.
    QD_ASSIGN_OR_RETURN(id_, client_->StartParts(key_));
    QD_RETURN_IF_ERROR(WriteJournal());
  }
  while (static_cast<int64_t>(parts_.size()) < parts_end) {
    const int64_t first = static_cast<int64_t>(parts_.size());
    std::vector<absl::StatusOr<Part>> sent(
        static_cast<size_t>(std::min(kPartsAtOnce, parts_end - first)));
    std::vector<std::thread> threads;
    for (size_t i = 0; i < sent.size(); ++i) {
      threads.emplace_back(
          [&, i, id = id_] { sent[i] = SendOne(first + static_cast<int64_t>(i), id); });
    }
    for (std::thread& thread : threads) thread.join();
    absl::Status status;
    for (absl::StatusOr<Part>& part : sent) {
      status.Update(part.status());
      if (status.ok()) parts_.push_back(*std::move(part));
    }
    QD_RETURN_IF_ERROR(WriteJournal());
    QD_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

absl::Status S3Upload::Advance(const std::string& file, int64_t committed_bytes) {
  QD_RETURN_IF_ERROR(OpenFile(file));
  QD_RETURN_IF_ERROR(TakeUp(committed_bytes));
  const int64_t whole = committed_bytes / part_bytes_;
  if (whole - static_cast<int64_t>(parts_.size()) < kPartsAtOnce) return absl::OkStatus();
  const absl::Status status = SendTo(whole);
  if (!absl::IsNotFound(status)) return status;
  Forget();  // The storage has thrown the upload away.
  return SendTo(whole);
}

absl::Status S3Upload::TryFinish(const std::string& file) {
  QD_RETURN_IF_ERROR(OpenFile(file));
  QD_RETURN_IF_ERROR(TakeUp(size_bytes_));
  QD_RETURN_IF_ERROR(SendTo(parts_total_));
  std::vector<std::string> tags;
  for (const Part& part : parts_) tags.push_back(part.tag);
  return client_->CompleteParts(key_, id_, tags, size_bytes_);
}

absl::Status S3Upload::Finish(const std::string& file) {
  absl::Status status = TryFinish(file);
  if (absl::IsNotFound(status)) {
    Forget();
    status = TryFinish(file);
  }
  if (absl::IsNotFound(status)) status = absl::UnavailableError(status.message());
  if (status.ok()) Forget();
  return status;
}

void S3Upload::Abort() {
  S3UploadId upload{.key = key_, .id = id_};
  if (id_.empty()) upload = ReadS3Journal(journal_).value_or(S3UploadId{});
  if (!upload.key.empty()) {
    if (const absl::Status status = AbortS3Upload(client_.get(), upload); !status.ok()) {
      LogWarning("parts stay in the bucket until the sweep", {{"error", status.ToString()}});
    }
  }
  Forget();
}

}  // namespace quantd
