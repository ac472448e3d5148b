// Cuts a byte stream into lines with bounded memory: what a line holds beyond the limit is dropped
// and counted.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// Not thread-safe.
class LineSplitter {
 public:
  // The line without its end ("\n" or "\r\n"), and how many of its bytes were dropped.
  using Sink = std::function<void(std::string line, int64_t dropped_bytes)>;

  LineSplitter(size_t limit_bytes, Sink sink) : limit_bytes_(limit_bytes), sink_(std::move(sink)) {}

  void Add(absl::string_view bytes);
  // Hands out the last line if it has no end.
  void Finish();

 private:
  void Append(absl::string_view part);
  void Emit();

  const size_t limit_bytes_;
  const Sink sink_;
  std::string line_;
  int64_t dropped_bytes_ = 0;
};

}  // namespace quantd
