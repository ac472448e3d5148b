// quant-worker: flags, signals, and the data folder's lock around one Agent.
//
// Exit codes: 0 stopped in good order, 1 the device is not sane, the name was taken or another
// error, 2 usage.
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/channel.h"
#include "proto/connect.h"
#include "proto/names.h"
#include "workers/agent/agent.h"
#include "workers/agent/child_process.h"
#include "workers/agent/gpu_workers.h"

namespace quantd {
namespace {

struct Flags {
  ConnectOptions connect = {.address = "127.0.0.1:7717"};
  std::string name;
  std::string engine;
  std::string data;
  std::string gpu;
  std::vector<std::string> labels;
  std::string metrics_listen = "127.0.0.1:0";
  int slots = 1;
  double drain_grace_s = 25;
  double exit_when_idle_s = 0;
  double cancel_grace_s = 20;
  int64_t cache_gib = 200;
  std::string canary = "on";
  std::string confine = "auto";
  std::string engine_user;
  std::vector<std::string> readable;
  std::vector<std::string> spec_roots;
  std::string log_format = "text";
  std::string log_level = "info";
};

void Describe(CLI::App& app, Flags* flags) {
  app.add_option("--scheduler", flags->connect.address, "Where quantd listens, host:port")
      ->capture_default_str();
  app.add_option("--token-file", flags->connect.token_file,
                 "File with this worker's access token; QUANTD_TOKEN_FILE, or the token itself in "
                 "QUANTD_TOKEN");
  app.add_flag("--tls", flags->connect.tls,
               "TLS with the system's authorities; QUANTD_TLS=1. The next ones imply it");
  app.add_option("--tls-ca", flags->connect.tls_ca,
                 "PEM file of the scheduler's authority; QUANTD_TLS_CA");
  app.add_option("--tls-cert", flags->connect.tls_cert,
                 "This worker's certificate, where the scheduler wants one; QUANTD_TLS_CERT");
  app.add_option("--tls-key", flags->connect.tls_key, "Its private key; QUANTD_TLS_KEY");
  app.add_option("--tls-server-name", flags->connect.tls_server_name,
                 "Name in the scheduler's certificate, if not the address's; "
                 "QUANTD_TLS_SERVER_NAME");
  app.add_flag("--insecure", flags->connect.insecure,
               "Send the token to another machine without TLS");
  app.add_option("--name", flags->name,
                 "This worker's name; by default the host's with a random end, kept in --data");
  app.add_option("--engine", flags->engine, "quant-engine; by default the one beside this program");
  app.add_option("--data", flags->data,
                 "Folder for jobs, checkpoints and the blob cache; by default "
                 "$XDG_STATE_HOME/quantd/worker");
  app.add_option(
      "--gpu", flags->gpu,
      "Serve this GPU alone, counted from 0; all: a worker for each, in a folder gpu-N of "
      "--data, with metrics N ports further. By default one worker sees all GPUs");
  app.add_option("--labels", flags->labels, "key=value, for requirements.worker_labels of jobs")
      ->delimiter(',');
  app.add_option("--metrics-listen", flags->metrics_listen, "host:port of /metrics, or \"off\"")
      ->capture_default_str();
  app.add_option("--slots", flags->slots, "Jobs at a time")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--drain-grace", flags->drain_grace_s,
                 "Seconds from SIGTERM until the job has been given back")
      ->check(CLI::Range(1.0, 3600.0))
      ->capture_default_str();
  app.add_option("--cancel-grace", flags->cancel_grace_s,
                 "Seconds that an engine gets to stop before it is killed")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  app.add_option("--exit-when-idle", flags->exit_when_idle_s,
                 "Leave after so many seconds without a job; 0: stay")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--cache-gib", flags->cache_gib, "Size of the blob cache")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--canary", flags->canary, "Check the device after an engine died")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  app.add_option("--confine", flags->confine,
                 "Keep engines to their job's files, without network where the job needs none: "
                 "auto, as far as the kernel can; strict, or do not start; off")
      ->check(CLI::IsMember({"auto", "strict", "off"}))
      ->capture_default_str();
  app.add_option("--engine-user", flags->engine_user,
                 "Run engines as this user; for workers that run as root");
  app.add_option("--readable", flags->readable, "Further folders that engines may read")
      ->delimiter(',');
  app.add_option("--spec-paths", flags->spec_roots,
                 "Folders in which the paths of specs have to lie; by default any path goes")
      ->delimiter(',');
  app.add_option("--log-format", flags->log_format, "Form of this program's own log")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--log-level", flags->log_level, "Least important lines to write")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  app.set_version_flag("--version", QUANTD_VERSION);
}

// What the owner of this machine may have given to its engines.
std::vector<std::string> SecretValues() {
  std::vector<std::string> values;
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY",
                           "AWS_SESSION_TOKEN", "QUANTD_TOKEN"}) {
    if (const char* value = getenv(name); value != nullptr) values.emplace_back(value);
  }
  return values;
}

std::string DefaultData() {
  if (const char* state = getenv("XDG_STATE_HOME"); state != nullptr && *state != '\0') {
    return absl::StrCat(state, "/quantd/worker");
  }
  const char* home = getenv("HOME");
  return absl::StrCat(home != nullptr ? home : "/tmp", "/.local/state/quantd/worker");
}

// Two workers in one folder would delete each other's files. The lock ends with the process.
absl::Status LockFolder(const std::string& data) {
  QD_RETURN_IF_ERROR(MakeFolders(data));
  const std::string path = data + "/lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "opening ", path);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return absl::FailedPreconditionError(
        absl::StrCat("another quant-worker uses ", data, "; give this one another --data"));
  }
  return absl::OkStatus();
}

// The flag, or the kept name, or the host's name with four random digits: machines made from one
// image often share a host name, and two workers under one name push each other out.
absl::StatusOr<std::string> ChooseName(const Flags& flags, const std::string& data) {
  const std::string path = data + "/name";
  std::string name = flags.name;
  if (name.empty()) {
    const absl::StatusOr<std::string> kept = ReadFile(path);
    if (kept.ok()) name = std::string(absl::StripAsciiWhitespace(*kept));
  }
  if (name.empty()) {
    char host[256] = {};
    gethostname(host, sizeof(host) - 1);
    const std::string base = IsWorkerId(host) ? std::string(host).substr(0, 100) : "worker";
    name = absl::StrCat(base, "-", NewUuid().substr(0, 4));
  }
  if (!IsWorkerId(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--name \"", name,
                     "\": must be 1 to 128 of [A-Za-z0-9._-], starting with a letter or digit"));
  }
  QD_RETURN_IF_ERROR(WriteFileAtomic(path, name + "\n"), "keeping the worker's name");
  return name;
}

std::string Variable(const char* name, const std::string& otherwise) {
  const char* value = getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

absl::StatusOr<EngineLimits> ToLimits(const Flags& flags, const std::string& engine) {
  EngineLimits limits;
  limits.confined = flags.confine != "off";
  if (!limits.confined) {
    if (flags.engine_user.empty()) return limits;
    return absl::InvalidArgumentError("--engine-user needs --confine auto or strict");
  }
  const ConfinementSupport support = ProbeConfinement();
  if (flags.confine == "strict" && !support.complete()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--confine strict: this machine offers ", support.Describe()));
  }
  Log(support.complete() ? LogLevel::kInfo : LogLevel::kWarning, "engines are confined",
      {{"by", support.Describe()}});
  limits.programs = EngineReadables(engine);
  limits.programs.insert(limits.programs.end(), flags.readable.begin(), flags.readable.end());
  for (const std::string& folder : std::vector<std::string>(
           absl::StrSplit(Variable("LD_LIBRARY_PATH", ""), ':', absl::SkipEmpty()))) {
    limits.programs.push_back(folder);
  }
  limits.spec_roots = flags.spec_roots;
  const std::string cache = Variable("XDG_CACHE_HOME", Variable("HOME", "") + "/.cache");
  const std::string hub = Variable("HF_HOME", cache + "/huggingface");
  limits.hub_cache = Variable("HF_HUB_CACHE", hub + "/hub");
  limits.hub_token = Variable("HF_TOKEN_PATH", hub + "/token");
  if (flags.engine_user.empty()) return limits;
  const passwd* user = getpwnam(flags.engine_user.c_str());
  if (user == nullptr || geteuid() != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--engine-user ", flags.engine_user,
        user == nullptr ? ": there is no such user" : ": only a worker that runs as root can"));
  }
  limits.as_user = true;
  limits.user = {.uid = user->pw_uid, .gid = user->pw_gid};
  return limits;
}

absl::StatusOr<AgentOptions> ToOptions(const Flags& flags) {
  AgentOptions options;
  options.data = flags.data.empty() ? DefaultData() : flags.data;
  std::error_code error;
  options.data = std::filesystem::absolute(options.data, error).string();
  QD_RETURN_IF_ERROR(LockFolder(options.data));
  QD_ASSIGN_OR_RETURN(options.name, ChooseName(flags, options.data));
  options.engine = flags.engine;
  if (options.engine.empty()) {
    options.engine =
        (std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "quant-engine")
            .string();
  }
  options.engine = std::filesystem::absolute(options.engine, error).string();
  QD_ASSIGN_OR_RETURN(options.limits, ToLimits(flags, options.engine));
  for (const std::string& label : flags.labels) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(label, absl::MaxSplits('=', 1));
    if (pair.first.empty() || label.find('=') == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("--labels \"", label, "\": must be key=value"));
    }
    options.labels[pair.first] = pair.second;
  }
  options.slots = flags.slots;
  options.cache_bytes = flags.cache_gib << 30;
  options.drain_grace = absl::Seconds(flags.drain_grace_s);
  options.grace.drain = options.drain_grace * 0.6;
  options.grace.cancel = absl::Seconds(flags.cancel_grace_s);
  if (flags.exit_when_idle_s > 0) options.exit_when_idle = absl::Seconds(flags.exit_when_idle_s);
  options.secret_values = SecretValues();
  options.canary = flags.canary == "on";
  return options;
}

// Signals arrive here and nowhere else. Ends with SIGUSR1, which main sends when the agent is done.
void HandleSignals(const sigset_t& set, Agent* agent, absl::Duration drain_grace) {
  int received = 0;
  while (sigwait(&set, &received) == 0 && received != SIGUSR1) {
    LogInfo("signal", {{"signal", strsignal(received)}});
    if (received == SIGHUP) {
      if (const absl::Status status = agent->Refresh(); !status.ok()) {
        LogError("the engine does not say what it can; staying with what it said before",
                 {{"error", status.ToString()}});
      }
      continue;
    }
    // A hang below must not make a machine's owner wait: the kernel ends the process, and it the
    // engine.
    alarm(static_cast<unsigned>(absl::ToInt64Seconds(drain_grace)) + 4);
    agent->Drain();
  }
}

absl::Status RunWorker(const Flags& flags) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);  // Before any thread starts: they inherit it.
  signal(SIGPIPE, SIG_IGN);
  QD_ASSIGN_OR_RETURN(const AgentOptions options, ToOptions(flags));
  BecomeSubreaper();
  SetChildOwner(options.data);
  if (const int killed = KillLeftovers(); killed > 0) {
    LogWarning("ended processes that an earlier worker left", {{"count", killed}});
  }
  AgentMetrics metrics;
  if (flags.metrics_listen != "off") {
    QD_ASSIGN_OR_RETURN(const std::string address, metrics.Listen(flags.metrics_listen));
    LogInfo("metrics", {{"url", absl::StrCat("http://", address, "/metrics")}});
  }
  ConnectOptions connect = flags.connect;
  ConnectFromEnvironment([](const char* name) -> const char* { return getenv(name); }, &connect);
  // Children of the same user must not read our memory, nor the environment we were given.
  prctl(PR_SET_DUMPABLE, 0);
  QD_ASSIGN_OR_RETURN(const auto channel, Connect(connect, ClientChannelArguments()));
  QD_ASSIGN_OR_RETURN(const std::unique_ptr<Agent> agent,
                      Agent::Create(options, channel, &metrics));
  LogInfo("worker starts", {{"worker", options.name},
                            {"scheduler", connect.address},
                            {"engine", options.engine},
                            {"data", options.data}});
  std::thread signals([&] { HandleSignals(set, agent.get(), options.drain_grace); });
  const absl::Status end = agent->Run();
  pthread_kill(signals.native_handle(), SIGUSR1);
  signals.join();
  return end;
}

// The flags of the worker for GPU `number`, one of several or the only one.
Flags ForGpu(Flags flags, size_t number, bool several) {
  if (several || flags.data.empty()) {
    flags.data = absl::StrCat(flags.data.empty() ? DefaultData() : flags.data, "/gpu-", number);
  }
  if (several && !flags.name.empty()) absl::StrAppend(&flags.name, "-gpu", number);
  const size_t colon = flags.metrics_listen.rfind(':');
  int port = 0;
  if (several && colon != std::string::npos &&
      absl::SimpleAtoi(flags.metrics_listen.substr(colon + 1), &port) && port > 0) {
    flags.metrics_listen =
        absl::StrCat(flags.metrics_listen.substr(0, colon + 1), port + static_cast<int>(number));
  }
  flags.labels.push_back(absl::StrCat("gpu=", number));
  return flags;
}

int Run(const Flags& flags) {
  const absl::Status end = RunWorker(flags);
  if (end.ok()) return 0;
  LogError("quant-worker stops", {{"error", end.ToString()}});
  return absl::IsInvalidArgument(end) ? 2 : 1;
}

int RunOnGpus(const Flags& flags) {
  const std::vector<std::string> visible = VisibleGpus(getenv(kVisibleGpus));
  const absl::StatusOr<std::vector<size_t>> chosen = ChooseGpus(flags.gpu, visible);
  if (!chosen.ok()) {
    LogError("quant-worker stops", {{"error", chosen.status().ToString()}});
    return 2;
  }
  const bool several = flags.gpu == "all";
  const auto run = [&](size_t i) {
    UseGpu(visible[(*chosen)[i]]);
    return Run(ForGpu(flags, (*chosen)[i], several));
  };
  return several ? RunEachInProcess(chosen->size(), run) : run(0);
}

int Main(int argc, char** argv) {
  CLI::App app("quant-worker: takes jobs from a quantd scheduler and runs them with quant-engine");
  Flags flags;
  Describe(app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  LogOptions log;
  log.program = "quant-worker";
  log.format = flags.log_format == "json" ? LogFormat::kJson : LogFormat::kText;
  ParseLogLevel(flags.log_level, &log.level).IgnoreError();
  InitLog(log);
  return flags.gpu.empty() ? Run(flags) : RunOnGpus(flags);
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) { return quantd::Main(argc, argv); }
