// quant-engine: quantizes, evaluates, benchmarks, verifies and reports; a child of quant-worker, or
// a tool by itself. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped on request.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/log.h"
#include "base/openmp_waits.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/run_job.h"

namespace quantd::engine {
namespace {

// Begins anew with OpenMP's settings, unless somebody chose any: what is set in main comes too
// late.
void ChooseOpenMpWaits(char** argv) {
  for (const OpenMpWait& wait : kOpenMpWaits) {
    if (std::getenv(wait.name) != nullptr) return;
  }
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return;
  for (const OpenMpWait& wait : kOpenMpWaits) setenv(wait.name, wait.value, /*overwrite=*/1);
  execv(self.c_str(), argv);
  // Where that is not allowed we go on as we are.
}

int Main(int argc, char** argv) {
  CLI::App app("Quantizes, evaluates and compares language models.", "quant-engine");
  app.set_help_all_flag("--help-all", "Help for all commands");
  app.require_subcommand(1);
  std::string log_level = "info";
  std::string log_format = "text";
  app.add_option("--log-level", log_level, "debug, info, warning or error");
  app.add_option("--log-format", log_format, "text or json")
      ->check(CLI::IsMember({"text", "json"}));
  int exit_code = 0;
  app.parse_complete_callback([&] {
    LogOptions options{.format = log_format == "json" ? LogFormat::kJson : LogFormat::kText,
                       .program = "quant-engine"};
    if (const absl::Status status = ParseLogLevel(log_level, &options.level); !status.ok()) {
      throw CLI::ValidationError("--log-level", std::string(status.message()));
    }
    InitLog(options);
  });
  AddRun(app, &exit_code);
  AddQuantize(app, &exit_code);
  AddEvaluate(app, &exit_code);
  AddBenchmark(app, &exit_code);
  AddBench(app, &exit_code);
  AddVerify(app, &exit_code);
  AddCompare(app, &exit_code);
  AddScore(app, &exit_code);
  AddInspect(app, &exit_code);
  AddEstimate(app, &exit_code);
  AddCapabilities(app, &exit_code);
  AddCanary(app, &exit_code);
  app.add_subcommand("version", "Print the version")->callback([] {
    std::printf("quant-engine %s\n", QUANTD_VERSION);
  });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  return exit_code;
}

}  // namespace
}  // namespace quantd::engine

int main(int argc, char** argv) {
  quantd::engine::ChooseOpenMpWaits(argv);
  return quantd::engine::Main(argc, argv);
}
