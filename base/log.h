// Structured logs: one line an event, a message and named fields, as text for people or JSON for
// machines.
//
//   LogInfo("lease granted", {{"job", name}, {"worker", worker}});
//
// spdlog writes them; its headers stay out of this one because libtorch ships an fmt of its own.
// Thread-safe. Secrets never go into a field.
#pragma once

#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantd {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

struct LogField {
  absl::string_view name;
  std::string value;
  LogField(absl::string_view name, const absl::AlphaNum& value)
      : name(name), value(value.Piece()) {}
};

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
  std::string program;  // Appears in every line.
};

// Logs go to stderr. To be called once, before threads start; without a call the defaults hold.
void InitLog(const LogOptions& options);

// "debug" | "info" | "warning" | "error"; InvalidArgument names the four.
absl::Status ParseLogLevel(absl::string_view text, LogLevel* level);

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

inline void LogDebug(absl::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kDebug, message, fields);
}
inline void LogInfo(absl::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kInfo, message, fields);
}
inline void LogWarning(absl::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kWarning, message, fields);
}
inline void LogError(absl::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kError, message, fields);
}

}  // namespace quantd
