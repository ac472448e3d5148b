// For this room's tests: a folder of their own, and safetensors files put together byte by byte.
#pragma once

#include <stdlib.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/file.h"

namespace quantd::engine {

// Made on construction, removed with all it holds on destruction.
class TempFolder {
 public:
  TempFolder() {
    char path[] = "/tmp/quantd_test_XXXXXX";
    QD_CHECK(mkdtemp(path) != nullptr);
    path_ = path;
  }
  ~TempFolder() { RemoveTree(path_).IgnoreError(); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string Add(absl::string_view name, absl::string_view bytes) const {
    const std::string path = absl::StrCat(path_, "/", name);
    const absl::Status status = WriteFileAtomic(path, bytes);
    QD_CHECK(status.ok(), "writing a test file: ", status.message());
    return path;
  }

 private:
  std::string path_;
};

// Eight bytes of `length`, the header, `data`.
inline std::string FileBytes(uint64_t length, absl::string_view header, absl::string_view data) {
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return absl::StrCat(bytes, header, data);
}
inline std::string FileBytes(absl::string_view header, absl::string_view data) {
  return FileBytes(header.size(), header, data);
}

}  // namespace quantd::engine
