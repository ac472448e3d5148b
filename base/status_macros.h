// Macros that carry absl::Status upwards and say at every hop what was attempted.
//
//   QD_RETURN_IF_ERROR(WriteShard(path), "writing shard ", path);
//   QD_ASSIGN_OR_RETURN(Tensor weight, checkpoint.Read(name), "quantizing ", name);
//
// The context words are put before the message: "quantizing layers.3.q_proj: tensor missing in
// shard 2". The code and the payloads stay as they were.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace quantd {

// `status` with `context` and ": " before its message.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok() || context.empty()) return status;
  absl::Status result(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view type, const absl::Cord& payload) { result.SetPayload(type, payload); });
  return result;
}

namespace status_internal {
template <typename... Words>
std::string Context(const Words&... words) {
  if constexpr (sizeof...(words) == 0) {
    return "";
  } else {
    return absl::StrCat(words...);
  }
}
}  // namespace status_internal

}  // namespace quantd

#define QD_CONCAT_INNER(a, b) a##b
#define QD_CONCAT(a, b) QD_CONCAT_INNER(a, b)

#define QD_RETURN_IF_ERROR(expression, ...)                                                  \
  do {                                                                                       \
    if (absl::Status qd_status = (expression); !qd_status.ok()) {                            \
      return ::quantd::Annotate(qd_status, ::quantd::status_internal::Context(__VA_ARGS__)); \
    }                                                                                        \
  } while (false)

#define QD_ASSIGN_OR_RETURN(target, expression, ...) \
  QD_ASSIGN_OR_RETURN_IMPL(QD_CONCAT(qd_or_, __LINE__), target, expression, __VA_ARGS__)

#define QD_ASSIGN_OR_RETURN_IMPL(temporary, target, expression, ...)            \
  auto temporary = (expression);                                                \
  if (!temporary.ok()) {                                                        \
    return ::quantd::Annotate(temporary.status(),                               \
                              ::quantd::status_internal::Context(__VA_ARGS__)); \
  }                                                                             \
  target = std::move(temporary).value()
