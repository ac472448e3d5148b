// The engine's commands, one file each. Every Add function gives the program a subcommand; when it
// was chosen, its callback runs and leaves the exit code in `*exit_code`.
#pragma once

#include <CLI/CLI.hpp>

namespace quantd::engine {

void AddRun(CLI::App& app, int* exit_code);
void AddQuantize(CLI::App& app, int* exit_code);
void AddEvaluate(CLI::App& app, int* exit_code);
void AddBenchmark(CLI::App& app, int* exit_code);
void AddBench(CLI::App& app, int* exit_code);
void AddVerify(CLI::App& app, int* exit_code);
void AddCompare(CLI::App& app, int* exit_code);  // Also "report".
void AddScore(CLI::App& app, int* exit_code);
void AddInspect(CLI::App& app, int* exit_code);
void AddEstimate(CLI::App& app, int* exit_code);
void AddCapabilities(CLI::App& app, int* exit_code);
void AddCanary(CLI::App& app, int* exit_code);

}  // namespace quantd::engine
