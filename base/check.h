// QD_CHECK is for our own bugs only: what a user, a file or a network sends never reaches one.
#pragma once

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantd {
// Prints "file:line: check failed: condition words" to stderr and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              absl::string_view words);
}  // namespace quantd

#define QD_CHECK(condition, ...)                                                             \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      ::quantd::CheckFailed(__FILE__, __LINE__, #condition, ::absl::StrCat("" __VA_ARGS__)); \
    }                                                                                        \
  } while (false)
