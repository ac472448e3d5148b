// What each file of this folder declares; the table in table.cc names them.
#pragma once

#include "CLI/App.hpp"
#include "client/cli.h"

namespace quantd {

Action DeclareQuantize(CLI::App* app);
Action DeclareEvaluate(CLI::App* app);
Action DeclareBenchmark(CLI::App* app);
Action DeclareVerify(CLI::App* app);
Action DeclareSweep(CLI::App* app);
Action DeclareSubmit(CLI::App* app);
Action DeclareCompare(CLI::App* app);
Action DeclareReport(CLI::App* app);
Action DeclareJobsList(CLI::App* app);
Action DeclareJobsGet(CLI::App* app);
Action DeclareJobsWatch(CLI::App* app);
Action DeclareJobsLogs(CLI::App* app);
Action DeclareJobsCancel(CLI::App* app);
Action DeclareJobsRetry(CLI::App* app);
Action DeclareSweepsList(CLI::App* app);
Action DeclareSweepsGet(CLI::App* app);
Action DeclareSweepsWatch(CLI::App* app);
Action DeclareSweepsCancel(CLI::App* app);
Action DeclareSweepsRetry(CLI::App* app);
Action DeclareArtifactsList(CLI::App* app);
Action DeclareArtifactsGet(CLI::App* app);
Action DeclareWorkers(CLI::App* app);
Action DeclareMethods(CLI::App* app);
Action DeclareModelsInspect(CLI::App* app);
Action DeclareScore(CLI::App* app);
Action DeclareTokensCreate(CLI::App* app);
Action DeclareTokensList(CLI::App* app);
Action DeclareTokensRevoke(CLI::App* app);
Action DeclareTokensWhoAmI(CLI::App* app);
Action DeclareSecretsPut(CLI::App* app);
Action DeclareSecretsList(CLI::App* app);
Action DeclareSecretsDelete(CLI::App* app);
Action DeclareDoctor(CLI::App* app);
Action DeclareTop(CLI::App* app);
Action DeclareExplain(CLI::App* app);
Action DeclareCompletion(CLI::App* app);
Action DeclareVersion(CLI::App* app);

}  // namespace quantd
