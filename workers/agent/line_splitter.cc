// One pass over the bytes; a line is handed out when its end is seen.
#include "workers/agent/line_splitter.h"

#include <algorithm>

namespace quantd {

void LineSplitter::Append(absl::string_view part) {
  const size_t kept = std::min(part.size(), limit_bytes_ - line_.size());
  line_.append(part.data(), kept);
  dropped_bytes_ += static_cast<int64_t>(part.size() - kept);
}

void LineSplitter::Emit() {
  if (dropped_bytes_ == 0 && !line_.empty() && line_.back() == '\r') line_.pop_back();
  sink_(std::move(line_), dropped_bytes_);
  line_.clear();
  dropped_bytes_ = 0;
}

void LineSplitter::Add(absl::string_view bytes) {
  while (true) {
    const size_t end = bytes.find('\n');
    if (end == absl::string_view::npos) break;
    Append(bytes.substr(0, end));
    Emit();
    bytes.remove_prefix(end + 1);
  }
  Append(bytes);
}

void LineSplitter::Finish() {
  if (!line_.empty() || dropped_bytes_ > 0) Emit();
}

}  // namespace quantd
