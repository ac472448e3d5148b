// Settings and errors of one run.
#include "client/session.h"

#include <google/protobuf/util/json_util.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "proto/names.h"
#include "proto/yaml.h"

namespace quantd {
namespace {

constexpr int64_t kSettingsBytesMax = 64 << 10;

// The first that is not empty.
std::string FirstOf(std::initializer_list<std::string> values) {
  for (const std::string& value : values) {
    if (!value.empty()) return value;
  }
  return "";
}

}  // namespace

Environment ProcessEnvironment() {
  Environment environment;
  environment.out = &std::cout;
  environment.err = &std::cerr;
  environment.variable = [](const char* name) -> const char* { return std::getenv(name); };
  environment.terminal = isatty(STDOUT_FILENO) == 1;
  winsize size{};
  int columns = 0;
  if (environment.terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    environment.width = size.ws_col;
    if (size.ws_row > 0) environment.height = size.ws_row;
  } else if (const char* text = std::getenv("COLUMNS");
             text != nullptr && absl::SimpleAtoi(text, &columns) && columns > 0) {
    environment.width = static_cast<size_t>(columns);
  }
  return environment;
}

Session::Session(const Environment& environment, const GlobalFlags& flags)
    : environment_(environment), flags_(flags) {
  const char* no_color = environment_.variable("NO_COLOR");
  style_.color = terminal() && (no_color == nullptr || *no_color == '\0');
}

absl::Status Session::Configure() {
  const auto variable = [&](const char* name) { return Variable(name); };
  v1::ClientConfig config;
  const std::string home = variable("HOME");
  const std::string folder =
      FirstOf({variable("XDG_CONFIG_HOME"), home.empty() ? "" : home + "/.config"});
  const std::string path = folder + "/quantd/client.yaml";
  if (!folder.empty() && FileExists(path)) {
    QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kSettingsBytesMax));
    QD_RETURN_IF_ERROR(YamlToMessage(text, path, &config));
  }
  QD_RETURN_IF_ERROR(ConfigureConnection(config, folder));
  tenant_ = FirstOf({flags_.tenant, variable("QUANTD_TENANT"), config.tenant(), kDefaultTenant});
  tenant_ = std::string(absl::StripPrefix(tenant_, "tenants/"));
  if (!IsResourceId(tenant_)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tenant \"", tenant_, "\": must be 1-63 of a-z, 0-9 and '-', not at the ends"));
  }
  if (!flags_.timeout.empty() &&
      (!absl::ParseDuration(flags_.timeout, &timeout_) || timeout_ < absl::ZeroDuration())) {
    return absl::InvalidArgumentError(
        absl::StrCat("--timeout \"", flags_.timeout, "\": write 30s, 15m, 2h or 1h30m"));
  }
  return absl::OkStatus();
}

absl::Status Session::ConfigureConnection(const v1::ClientConfig& config,
                                          const std::string& folder) {
  connect_ = flags_.connect;
  const char* scheduler = environment_.variable("QUANTD_SCHEDULER");
  connect_.address = FirstOf({flags_.connect.address, scheduler == nullptr ? "" : scheduler,
                              config.scheduler(), kDefaultScheduler});
  ConnectFromEnvironment(environment_.variable, &connect_);
  connect_.tls = connect_.tls || config.tls();
  connect_.tls_ca = FirstOf({connect_.tls_ca, config.tls_ca()});
  connect_.tls_cert = FirstOf({connect_.tls_cert, config.tls_cert()});
  connect_.tls_key = FirstOf({connect_.tls_key, config.tls_key()});
  connect_.tls_server_name = FirstOf({connect_.tls_server_name, config.tls_server_name()});
  if (!connect_.token.empty() || !connect_.token_file.empty()) return absl::OkStatus();
  connect_.token_file = config.token_file();
  const std::string usual = folder + "/quantd/token";
  if (connect_.token_file.empty() && !folder.empty() && FileExists(usual)) {
    connect_.token_file = usual;
  }
  struct stat file;
  if (!connect_.token_file.empty() && stat(connect_.token_file.c_str(), &file) == 0 &&
      (file.st_mode & (S_IRGRP | S_IROTH)) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("others can read ", connect_.token_file, "; chmod 600 it"));
  }
  return absl::OkStatus();
}

std::string Session::Variable(const char* name) const {
  const char* value = environment_.variable(name);
  return value == nullptr ? "" : value;
}

std::string Session::parent() const { return TenantName(tenant_); }

Scheduler& Session::scheduler() {
  if (scheduler_ == nullptr) scheduler_ = std::make_unique<Scheduler>(connect_);
  return *scheduler_;
}

absl::StatusOr<std::string> Session::JobName(absl::string_view text) const {
  QD_ASSIGN_OR_RETURN(const TenantResource job, ParseJobReference(text, tenant_));
  return quantd::JobName(job);
}

absl::StatusOr<std::string> Session::SweepName(absl::string_view text) const {
  QD_ASSIGN_OR_RETURN(const TenantResource sweep, ParseSweepReference(text, tenant_));
  return quantd::SweepName(sweep);
}

void Session::PrintJson(absl::string_view key, const google::protobuf::Message& message) {
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text);
  if (!status.ok()) text = "{}";
  if (key.empty()) {
    out() << text << "\n";
  } else {
    out() << "{\"" << key << "\":" << text << "}\n";
  }
  out().flush();
}

void Session::PrintTable(const Table& table) {
  for (const std::string& line : table.Render(width(), style_)) out() << line << "\n";
  out().flush();
}

std::string Session::Remedy(const absl::Status& status) const {
  if (absl::IsUnavailable(status)) {
    if (ReasonOf(status) == kReasonDraining) return "it is stopping; try again when it is back";
    if (ReasonOf(status) == kReasonDiskLow) return "free disk space on the scheduler's machine";
    return absl::StrCat(
        "start one here with `quantd --standalone`, or name another: --scheduler ",
        "HOST:PORT, QUANTD_SCHEDULER, or `scheduler:` in ~/.config/quantd/client.yaml");
  }
  if (absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status)) {
    return absl::StrCat("check the access token (QUANTD_TOKEN, --token-file), --tenant (now \"",
                        tenant_, "\") and your rights on ", address());
  }
  return "";
}

int Session::Fail(const absl::Status& status) {
  const std::vector<FieldViolation> violations = FieldViolationsOf(status);
  if (violations.empty()) {
    std::vector<std::string> lines;
    for (const absl::string_view line : absl::StrSplit(status.message(), '\n')) {
      lines.push_back(OneLine(line));
    }
    for (const std::string& line : lines) err() << "quantctl: " << line << "\n";
  } else {
    err() << "quantctl: the scheduler refuses this:\n";
    for (const FieldViolation& violation : violations) {
      err() << "  " << OneLine(violation.field) << ": " << OneLine(violation.description) << "\n";
    }
  }
  if (const std::string remedy = Remedy(status); !remedy.empty()) err() << "  " << remedy << "\n";
  err().flush();
  return ExitCodeOf(status);
}

}  // namespace quantd
