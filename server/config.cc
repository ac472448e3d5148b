// The file's keys become flags that stand before the real ones; of a flag given twice the last one
// counts.
#include "server/config.h"

#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "proto/connect.h"
#include "server/artifacts/s3_config.h"
#include "server/store/postgres_job_store.h"
#include "server/tenants_file.h"

namespace quantd {
namespace {

constexpr int64_t kConfigBytesMax = 1 << 20;

struct Flags {
  std::string config;
  std::string store;
  std::string artifacts;
  double lease_seconds = 30;
  int64_t free_mib_min = 512;
  std::string tenants;
  double aging_minutes = 60;
  double retention_days = 0;
  double artifact_grace_hours = 0;
  bool insecure = false;
  bool metrics_insecure = false;
  std::string auth = "auto";
  double tls_reload_seconds = 10;
  bool new_token = false;
};

std::string DefaultData() {
  if (const char* data = std::getenv("XDG_DATA_HOME"); data != nullptr && *data == '/') {
    return absl::StrCat(data, "/quantd");
  }
  const char* home = std::getenv("HOME");
  return absl::StrCat(home != nullptr ? home : ".", "/.local/share/quantd");
}

void DescribeAccess(CLI::App& app, Flags* flags, AccessOptions* access) {
  app.add_option("--tls-cert", access->tls.certificate,
                 "PEM file of the API's certificate chain: the API speaks TLS; read again when it "
                 "changes");
  app.add_option("--tls-key", access->tls.key, "PEM file of its private key");
  app.add_option("--tls-client-ca", access->tls.client_ca,
                 "PEM file of an authority: every client has to show a certificate of it, too");
  app.add_option("--tls-reload-seconds", flags->tls_reload_seconds,
                 "How often these files are looked at")
      ->check(CLI::Range(1.0, 3600.0))
      ->capture_default_str();
  app.add_option("--auth", flags->auth,
                 "tokens: every call needs an access token; none; auto: tokens under TLS")
      ->check(CLI::IsMember({"auto", "tokens", "none"}))
      ->capture_default_str();
  app.add_option("--admin-token-file", access->token_files.admin,
                 "Administrators' tokens, one a line; by default DATA/admin-token is made");
  app.add_option("--worker-token-file", access->token_files.worker,
                 "Further tokens that workers may use, one a line");
  app.add_option("--secret-key-file", access->secret_key_file,
                 "Seals tenants' secrets and page tokens; the same on all schedulers of one store; "
                 "by default DATA/secret is made");
  app.add_option("--audit-log", access->audit_log,
                 "File that says who changed what and who was refused, or \"off\"; by default "
                 "DATA/audit.log");
  app.add_flag("--insecure", flags->insecure,
               "Let others reach an address that TLS and tokens do not protect");
  app.add_flag("--metrics-insecure", flags->metrics_insecure,
               "Let others reach /metrics, which is never protected");
  app.add_flag("--new-token", flags->new_token,
               "Print a fresh access token, for one of the files above, and exit");
}

void Describe(CLI::App& app, Flags* flags, Config* config) {
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  ServerOptions& server = config->server;
  app.add_option("--config", flags->config, "YAML file with these options by name; flags win");
  app.add_option("--listen", server.listen, "Address of the API, host:port; port 0 takes any")
      ->capture_default_str();
  app.add_option("--metrics-listen", server.metrics_listen,
                 "Address of Prometheus' /metrics, or \"off\"")
      ->capture_default_str();
  app.add_option("--data", server.data, "Folder for database and artifacts")->capture_default_str();
  app.add_option("--store", flags->store,
                 "Where jobs are kept: sqlite:PATH (by default DATA/quantd.db), or "
                 "postgres://USER:PASSWORD@HOST/DATABASE, which several schedulers may share");
  app.add_option(
      "--artifacts", flags->artifacts,
      "Where artifacts lie: a folder (by default DATA/artifacts), or s3://BUCKET/PREFIX, "
      "which several schedulers may share, with ?endpoint=URL&region=NAME&"
      "path-style=on|off&credentials=FILE or AWS' environment variables");
  app.add_option("--lease-seconds", flags->lease_seconds,
                 "A worker that is silent for so long loses its job")
      ->check(CLI::Range(1.0, 3600.0))
      ->capture_default_str();
  app.add_option("--free-mib-min", flags->free_mib_min,
                 "Uploads stop when less of the disk is free")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--tenants", flags->tenants,
                 "YAML file with weights and limits of tenants (docs/quotas.md)");
  app.add_option("--aging-minutes", flags->aging_minutes,
                 "A job that has waited for so long counts as one priority higher; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--retention-days", flags->retention_days,
                 "Jobs that ended so long ago are removed, with their events and results; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--artifact-grace-hours", flags->artifact_grace_hours,
                 "Files and artifacts that no job has led to for so long are removed; 0: never, "
                 "otherwise at least 1")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--standalone", config->standalone,
               "Start the quant-worker beside this program, too");
  app.add_option("--connections-max", server.connections_max,
                 "Open connections; one more is closed at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--streams-max", server.streams_max,
                 "Open watches and workers' polls; one more is told to try again")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_flag("--reflection", server.reflection,
               "Offer gRPC reflection, for grpcurl and the like");
  DescribeAccess(app, flags, &server.access);
  app.add_option("--ready-file", config->ready_file,
                 "JSON file with the real addresses, written once serving");
  app.add_option("--log-format", config->log_format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--log-level", config->log_level, "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  app.set_version_flag("--version", QUANTD_VERSION);
}

// The file's entries as "--key=value".
absl::StatusOr<std::vector<std::string>> ReadConfigFile(const std::string& path,
                                                        const CLI::App& app) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kConfigBytesMax), "--config");
  std::vector<std::string> args;
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return args;
    if (!root.IsMap())
      return absl::InvalidArgumentError(absl::StrCat(path, ": has to be `key: value` lines"));
    for (const auto& entry : root) {
      const std::string key = entry.first.as<std::string>();
      const std::string where = absl::StrCat(path, ":", entry.first.Mark().line + 1, ": ");
      if (key == "config" || app.get_option_no_throw("--" + key) == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, "there is no option \"", key, "\"; quantd --help lists them"));
      }
      if (!entry.second.IsScalar())
        return absl::InvalidArgumentError(absl::StrCat(where, key, " needs one value"));
      args.push_back(absl::StrCat("--", key, "=", entry.second.as<std::string>()));
    }
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", error.what()));
  }
  return args;
}

absl::Status CheckAddress(const char* flag, const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon != std::string::npos && colon > 0 &&
      absl::SimpleAtoi(address.substr(colon + 1), &port) && port >= 0 && port <= 65535) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " ", address, ": has to be host:port, as 127.0.0.1:7717"));
}

// Nothing that others can reach goes without protection unless it is asked for.
absl::Status CheckExposure(const Flags& flags, const ServerOptions& server) {
  const AccessOptions& access = server.access;
  if (!flags.insecure && !IsLoopbackAddress(server.listen) &&
      (!access.tls.enabled() || !access.tokens)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listening on ", server.listen, " without ", access.tls.enabled() ? "tokens" : "TLS",
        ": anyone who can reach this address could ",
        access.tls.enabled() ? "run jobs" : "read and change what passes",
        "; give --tls-cert and --tls-key (docs/security.md), listen on 127.0.0.1 and reach it "
        "through a tunnel (ssh -L), or add --insecure inside a network that you trust"));
  }
  if (!flags.insecure && !flags.metrics_insecure && server.metrics_listen != "off" &&
      !IsLoopbackAddress(server.metrics_listen)) {
    return absl::InvalidArgumentError(absl::StrCat("--metrics-listen ", server.metrics_listen,
                                                   ": /metrics has no protection of its own; add "
                                                   "--metrics-insecure where only those can reach "
                                                   "it who may see how busy the scheduler is"));
  }
  if (server.reflection && access.tokens) {
    return absl::InvalidArgumentError(
        "--reflection answers callers without a token; leave it out, or use --auth none");
  }
  return absl::OkStatus();
}

absl::Status FinishAccess(const Flags& flags, ServerOptions* server) {
  AccessOptions& access = server->access;
  if (access.tls.certificate.empty() != access.tls.key.empty()) {
    return absl::InvalidArgumentError("TLS needs both --tls-cert and --tls-key");
  }
  if (!access.tls.client_ca.empty() && !access.tls.enabled()) {
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  }
  access.tls.reload = absl::Seconds(flags.tls_reload_seconds);
  access.tokens = flags.auth == "tokens" || (flags.auth == "auto" && access.tls.enabled());
  if (!access.tokens && (!access.token_files.admin.empty() || !access.token_files.worker.empty())) {
    return absl::InvalidArgumentError(
        "token files without tokens: nobody would be asked for one; add --auth tokens");
  }
  return CheckExposure(flags, *server);
}

// The database of ServerOptions. The value may hold a password: errors do not repeat it.
absl::StatusOr<std::string> ParseStore(absl::string_view store) {
  if (IsPostgresUrl(store)) return std::string(store);
  if (absl::ConsumePrefix(&store, "sqlite:") && !store.empty()) return std::string(store);
  return absl::InvalidArgumentError("has to be sqlite:PATH or postgres://...");
}

absl::Status FinishArtifacts(const std::string& artifacts, ServerOptions* server) {
  if (IsS3Url(artifacts)) {
    QD_ASSIGN_OR_RETURN(server->bucket, ParseS3Url(artifacts, ProcessEnvironment), "--artifacts");
    return absl::OkStatus();
  }
  if (absl::StrContains(artifacts, "://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--artifacts ", artifacts, ": has to be a folder or s3://BUCKET/PREFIX"));
  }
  server->artifacts = artifacts;
  return absl::OkStatus();
}

absl::Status Finish(const Flags& flags, Config* config) {
  ServerOptions& server = config->server;
  QD_RETURN_IF_ERROR(CheckAddress("--listen", server.listen));
  if (server.metrics_listen != "off")
    QD_RETURN_IF_ERROR(CheckAddress("--metrics-listen", server.metrics_listen));
  QD_RETURN_IF_ERROR(FinishAccess(flags, &server));
  if (!flags.store.empty()) {
    QD_ASSIGN_OR_RETURN(server.database, ParseStore(flags.store), "--store");
  }
  QD_RETURN_IF_ERROR(FinishArtifacts(flags.artifacts, &server));
  server.lease_time = absl::Seconds(flags.lease_seconds);
  if (!flags.tenants.empty()) {
    QD_ASSIGN_OR_RETURN(server.tenants, ReadTenants(flags.tenants), "--tenants");
  }
  server.aging =
      flags.aging_minutes > 0 ? absl::Minutes(flags.aging_minutes) : absl::InfiniteDuration();
  if (flags.retention_days > 0) server.retention = absl::Hours(24 * flags.retention_days);
  if (flags.artifact_grace_hours > 0) {
    if (flags.artifact_grace_hours < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("--artifact-grace-hours ", flags.artifact_grace_hours,
                       ": has to be at least 1, so that who uploads has time to submit; 0 keeps "
                       "everything"));
    }
    server.artifact_grace = absl::Hours(flags.artifact_grace_hours);
  }
  server.free_bytes_min = flags.free_mib_min << 20;
  config->log.program = "quantd";
  config->log.format = config->log_format == "json" ? LogFormat::kJson : LogFormat::kText;
  QD_RETURN_IF_ERROR(ParseLogLevel(config->log_level, &config->log.level));
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  config->worker_program = (self.parent_path() / "quant-worker").string();
  if (config->standalone && !FileExists(config->worker_program)) {
    return absl::NotFoundError(absl::StrCat("--standalone: there is no ", config->worker_program));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Config> ParseConfig(const std::vector<std::string>& args) {
  std::vector<std::string> all = args;
  for (const bool with_file : {false, true}) {
    Flags flags;
    Config config;
    config.server.data = DefaultData();
    CLI::App app("quantd: the scheduler of quantization jobs", "quantd");
    Describe(app, &flags, &config);
    try {
      app.parse(
          std::vector<std::string>(all.rbegin(), all.rend()));  // CLI11 takes them from the end.
    } catch (const CLI::CallForHelp&) {
      config.print_and_exit = app.help();
      return config;
    } catch (const CLI::CallForVersion&) {
      config.print_and_exit = absl::StrCat("quantd ", QUANTD_VERSION, "\n");
      return config;
    } catch (const CLI::Error& error) {
      return absl::InvalidArgumentError(
          absl::StrCat(error.what(), "; quantd --help lists the options"));
    }
    if (flags.new_token) {
      QD_ASSIGN_OR_RETURN(const NewToken token, MakeToken());
      config.print_and_exit = token.text + "\n";
      return config;
    }
    if (with_file || flags.config.empty()) {
      QD_RETURN_IF_ERROR(Finish(flags, &config));
      return config;
    }
    QD_ASSIGN_OR_RETURN(std::vector<std::string> from_file, ReadConfigFile(flags.config, app));
    all.insert(all.begin(), from_file.begin(), from_file.end());
  }
  return absl::InternalError("the configuration was not read");
}

}  // namespace quantd
