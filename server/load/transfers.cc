// As clients do it: the digest is known before an upload, and a download is hashed as it comes. The
// bytes lie in memory, so that no disk of this side is measured.
#include <cstring>
#include <ostream>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/sha256.h"
#include "proto/channel.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "server/load/measure.h"

namespace quantd::load {
namespace {

std::string Upload(const Target& target, const std::string& bytes, const v1::Blob& blob) {
  const auto stub = v1::ArtifactService::NewStub(Connect(target));
  v1::StartUploadRequest start;
  *start.mutable_blob() = blob;
  v1::StartUploadResponse started;
  grpc::ClientContext start_context;
  grpc::Status status = stub->StartUpload(&start_context, start, &started);
  if (!status.ok()) return status.error_message();
  grpc::ClientContext context;
  v1::UploadBlobResponse response;
  const auto stream = stub->UploadBlob(&context, &response);
  v1::UploadBlobRequest chunk;
  chunk.set_upload(started.upload());
  for (size_t at = 0; at < bytes.size(); at += kChunkBytes) {
    chunk.set_offset(static_cast<int64_t>(at));
    chunk.set_data(bytes.data() + at, std::min<size_t>(kChunkBytes, bytes.size() - at));
    chunk.set_finish(at + kChunkBytes >= bytes.size());
    if (!stream->Write(chunk)) break;
  }
  stream->WritesDone();
  status = stream->Finish();
  return !status.ok() ? status.error_message() : response.complete() ? "" : "not complete";
}

std::string Download(const Target& target, const v1::Blob& blob) {
  v1::DownloadBlobRequest request;
  request.set_sha256(blob.sha256());
  grpc::ClientContext context;
  const auto stream =
      v1::ArtifactService::NewStub(Connect(target))->DownloadBlob(&context, request);
  v1::DownloadBlobResponse chunk;
  Sha256 digest;
  while (stream->Read(&chunk)) digest.Update(chunk.data());
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return status.error_message();
  return digest.HexDigest() == blob.sha256() ? "" : "other bytes came back";
}

}  // namespace

void MeasureTransfers(const Target& target, int64_t mebibytes, int streams) {
  std::vector<std::string> blobs;
  std::vector<v1::Blob> names;
  std::mt19937_64 random(std::random_device{}());
  for (int i = 0; i < streams; ++i) {
    std::string bytes(static_cast<size_t>(mebibytes) << 20, '\0');
    for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
      const uint64_t word = random();
      memcpy(&bytes[at], &word, sizeof word);
    }
    v1::Blob& blob = names.emplace_back();
    blob.set_sha256(Sha256Hex(bytes));
    blob.set_size_bytes(static_cast<int64_t>(bytes.size()));
    blobs.push_back(std::move(bytes));
  }
  const auto measure = [&](const char* what, const auto& transfer) {
    std::vector<std::thread> threads;
    const absl::Time start = absl::Now();
    for (size_t i = 0; i < names.size(); ++i) {
      threads.emplace_back([&, i] {
        if (const std::string error = transfer(i); !error.empty()) target.out << error << "\n";
      });
    }
    for (std::thread& thread : threads) thread.join();
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    const double megabytes = static_cast<double>(mebibytes * streams) * 1.048576;
    target.out << what << ", " << streams << " stream(s) of " << mebibytes
               << " MiB: " << megabytes / seconds << " MB/s\n";
  };
  measure("upload", [&](size_t i) { return Upload(target, blobs[i], names[i]); });
  measure("download", [&](size_t i) { return Download(target, names[i]); });
}

}  // namespace quantd::load
