// The end of a process that found itself in a state it had excluded.
#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace quantd {

void CheckFailed(const char* file, int line, const char* condition, absl::string_view words) {
  std::fprintf(stderr, "%s:%d: check failed: %s %.*s\n", file, line, condition,
               static_cast<int>(words.size()), words.data());
  std::abort();
}

}  // namespace quantd
