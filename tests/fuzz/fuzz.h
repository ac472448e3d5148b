// What the fuzz targets share. A target is one function over bytes that strangers may send:
// libFuzzer drives it (./dev fuzz), and the replay driver runs its corpus and a few thousand
// mutations in the ordinary tests. It must return for every input; a crash, a leak or a broken
// invariant is a find.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"

// libFuzzer's name for it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace quantd::fuzz {

inline absl::string_view Text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// An invariant of a target.
inline void Require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "broken: %s\n", what);
  abort();
}

// The bytes as a file, for parsers that map files.
class InputFile {
 public:
  InputFile(const uint8_t* data, size_t size) : fd_(memfd_create("input", MFD_CLOEXEC)) {
    Require(fd_ >= 0 && write(fd_, data, size) == static_cast<ssize_t>(size), "the input's file");
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  ~InputFile() { close(fd_); }
  InputFile(const InputFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  const int fd_;
  std::string path_;
};

// Takes the input apart, from the front; zeros when it is used up.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  uint8_t Byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  std::string Some(size_t count) {
    std::string some;
    while (some.size() < count && left_ > 0) some.push_back(static_cast<char>(Byte()));
    return some;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

}  // namespace quantd::fuzz
