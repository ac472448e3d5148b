// The one place that includes spdlog.
#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "base/json_text.h"
#include "base/redact.h"
#include "base/trace.h"

namespace quantd {
namespace {

LogFormat g_format = LogFormat::kText;

spdlog::logger& Logger() {
  static std::shared_ptr<spdlog::logger> logger = [] {
    auto made = spdlog::stderr_color_mt("quantd");
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %^%l%$ %v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum Level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void InitLog(const LogOptions& options) {
  g_format = options.format;
  Logger().set_level(Level(options.level));
  if (options.format == LogFormat::kJson) {
    Logger().set_pattern(
        absl::StrCat(R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","program":")",
                     EscapeJson(options.program), R"(",%v})"));
  } else if (!options.program.empty()) {
    Logger().set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %^%l%$ " + options.program + " %v");
  }
}

absl::Status ParseLogLevel(absl::string_view text, LogLevel* level) {
  if (text == "debug") {
    *level = LogLevel::kDebug;
  } else if (text == "info") {
    *level = LogLevel::kInfo;
  } else if (text == "warning") {
    *level = LogLevel::kWarning;
  } else if (text == "error") {
    *level = LogLevel::kError;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("log level \"", text, "\": must be debug, info, warning or error"));
  }
  return absl::OkStatus();
}

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  spdlog::logger& logger = Logger();
  if (!logger.should_log(Level(level))) return;
  std::string line;
  if (g_format == LogFormat::kJson) {
    line = absl::StrCat("\"message\":\"", EscapeJson(message), "\"");
    for (const LogField& field : fields) {
      absl::StrAppend(&line, ",\"", field.name, "\":\"", EscapeJson(field.value), "\"");
      // A job's lines in all programs have its trace in common.
      if (field.name == "job") {
        absl::StrAppend(&line, ",\"trace_id\":\"", TraceId(field.value), "\"");
      }
    }
  } else {
    line = EscapeJson(message);
    for (const LogField& field : fields) {
      absl::StrAppend(&line, " ", field.name, "=", EscapeJson(field.value));
    }
  }
  // The last line of defence: callers leave secrets out themselves.
  logger.log(Level(level), "{}", RedactSecrets(line));
}

}  // namespace quantd
