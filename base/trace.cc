// SHA-256, cut to the lengths that W3C Trace Context wants. All zeros, which it forbids, does not
// occur.
#include "base/trace.h"

#include "absl/strings/str_cat.h"
#include "base/sha256.h"

namespace quantd {

std::string TraceId(absl::string_view job) {
  return Sha256Hex(absl::StrCat("trace ", job)).substr(0, 32);
}

std::string SpanId(absl::string_view job, absl::string_view part) {
  return Sha256Hex(absl::StrCat("span ", job, " ", part)).substr(0, 16);
}

std::string AttemptPart(int64_t attempt) { return absl::StrCat("attempt ", attempt); }

std::string TraceParent(absl::string_view job, int64_t attempt) {
  return absl::StrCat("00-", TraceId(job), "-", SpanId(job, AttemptPart(attempt)), "-01");
}

}  // namespace quantd
