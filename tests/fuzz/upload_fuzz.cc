// A client of the artifact store that sends what it likes in any order: several uploads, gaps,
// repetitions, lies about size and digest. What is published is what its digest says.
#include <stdlib.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/sha256.h"
#include "server/artifacts/local_artifact_store.h"
#include "tests/fuzz/fuzz.h"

namespace {

using quantd::fuzz::Require;

struct Scratch {
  Scratch() {
    char pattern[] = "/dev/shm/quantd_fuzz_XXXXXX";
    Require(mkdtemp(pattern) != nullptr, "a folder");
    folder = pattern;
  }
  ~Scratch() { quantd::RemoveTree(folder).IgnoreError(); }
  std::string folder;
};

constexpr size_t kContents = 4;
// Small ones, so that sizes and offsets are hit by chance.
std::string Content(size_t which) {
  return std::string(5 + 3 * which, static_cast<char>('a' + which));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantd;
  const Scratch scratch;
  auto store =
      LocalArtifactStore::Open({.folder = scratch.folder, .free_bytes_min = 0}, absl::Now());
  Require(store.ok(), "an empty store opens");
  std::map<size_t, std::string> uploads;
  fuzz::Bytes bytes(data, size);
  for (int step = 0; step < 64 && !bytes.empty(); ++step) {
    const size_t which = bytes.Byte() % kContents;
    const std::string content = Content(which);
    switch (bytes.Byte() % 4) {
      case 0: {
        v1::Blob blob;
        blob.set_sha256(Sha256Hex(content));
        blob.set_size_bytes(static_cast<int64_t>(content.size()) + (bytes.Byte() % 8 == 0 ? 1 : 0));
        const auto state = (*store)->StartUpload(blob);
        if (state.ok()) uploads[which] = state->upload;
        break;
      }
      case 1: {  // An honest chunk, at any place.
        const size_t offset = bytes.Byte() % (content.size() + 1);
        const std::string chunk = content.substr(offset, bytes.Byte() % 16);
        (*store)
            ->Append({.upload = uploads[which],
                      .offset_bytes = static_cast<int64_t>(offset),
                      .data = chunk,
                      .finish = bytes.Byte() % 2 == 0})
            .IgnoreError();
        break;
      }
      case 2: {  // Anything.
        const std::string name = bytes.Byte() % 4 == 0 ? bytes.Some(20) : uploads[which];
        const auto offset = static_cast<int64_t>(static_cast<int8_t>(bytes.Byte()));
        const std::string chunk = bytes.Some(bytes.Byte() % 32);
        (*store)
            ->Append({.upload = name,
                      .offset_bytes = offset,
                      .data = chunk,
                      .finish = bytes.Byte() % 2 == 0})
            .IgnoreError();
        break;
      }
      case 3:
        (*store)->Open(bytes.Some(bytes.Byte() % 70)).IgnoreError();
        break;
    }
  }
  for (size_t which = 0; which < kContents; ++which) {
    const std::string content = Content(which);
    const auto reader = (*store)->Open(Sha256Hex(content));
    if (!reader.ok()) continue;
    const auto read = (*reader)->Read(0, 1 << 20);
    Require(read.ok() && *read == content, "a published blob is what its digest says");
  }
  return 0;
}
