// The subcommands: a new one is a file, a declaration and a row.
#include "client/cli.h"
#include "client/commands/commands.h"

namespace quantd {
namespace {

constexpr CommandGroup kGroups[] = {
    {"jobs", "List, watch, cancel and retry jobs"},
    {"sweeps", "List, watch, cancel and retry sweeps"},
    {"artifacts", "List and download what jobs wrote"},
    {"models", "Look at model files"},
    {"tokens", "Make, list and revoke access tokens"},
    {"secrets", "Keep values that jobs may use and nobody sees"},
};

constexpr Command kCommands[] = {
    {"quantize", "Quantize a model",
     "quantctl quantize org/name --method gptq --bits 4 --group-size 128", &DeclareQuantize},
    {"evaluate", "Evaluate a model on tasks",
     "quantctl evaluate ./model --task perplexity=text.txt --limit 100", &DeclareEvaluate},
    {"benchmark", "Measure a model's speed and memory",
     "quantctl benchmark jobs/7f3a --batch-sizes 1,8", &DeclareBenchmark},
    {"verify", "Check a quantized checkpoint", "quantctl verify jobs/7f3a", &DeclareVerify},
    {"sweep", "Quantize a model many ways and compare them",
     "quantctl sweep examples/quick.yaml --output result", &DeclareSweep},
    {"submit", "Submit a job from a YAML file", "quantctl submit examples/quantize.yaml --detach",
     &DeclareSubmit},
    {"compare", "Put the results of jobs, or of a sweep, side by side",
     "quantctl compare sweeps/4c1d", &DeclareCompare},
    {"report", "Print or fetch a sweep's report", "quantctl report 4c1d --format html",
     &DeclareReport},
    {"score", "Score predictions made elsewhere, on this machine",
     "quantctl score --task squadv2=dev-v2.0.json --predictions predictions.json", &DeclareScore},
    {"jobs list", "List jobs, newest first", "quantctl jobs list --state running",
     &DeclareJobsList},
    {"jobs get", "Show one job", "quantctl jobs get 7f3a", &DeclareJobsGet},
    {"jobs watch", "Watch a job until it ends", "quantctl jobs watch 7f3a --timeout 1h",
     &DeclareJobsWatch},
    {"jobs logs", "Print a job's log", "quantctl jobs logs 7f3a --follow", &DeclareJobsLogs},
    {"jobs cancel", "Cancel jobs", "quantctl jobs cancel 7f3a", &DeclareJobsCancel},
    {"jobs retry", "Run a failed, cancelled or skipped job again", "quantctl jobs retry 7f3a",
     &DeclareJobsRetry},
    {"sweeps list", "List sweeps, newest first", "quantctl sweeps list", &DeclareSweepsList},
    {"sweeps get", "Show one sweep", "quantctl sweeps get 4c1d", &DeclareSweepsGet},
    {"sweeps watch", "Watch a sweep until it ends", "quantctl sweeps watch 4c1d --output result",
     &DeclareSweepsWatch},
    {"sweeps cancel", "Cancel a sweep's jobs", "quantctl sweeps cancel 4c1d", &DeclareSweepsCancel},
    {"sweeps retry", "Run what failed in a sweep again", "quantctl sweeps retry 4c1d",
     &DeclareSweepsRetry},
    {"artifacts list", "List artifacts, or one job's files", "quantctl artifacts list 7f3a",
     &DeclareArtifactsList},
    {"artifacts get", "Download an artifact or a job's files",
     "quantctl artifacts get 7f3a -o model", &DeclareArtifactsGet},
    {"workers", "List workers", "quantctl workers", &DeclareWorkers},
    {"methods", "List methods with their options, tasks and formats", "quantctl methods gptq",
     &DeclareMethods},
    {"models inspect", "Describe a model folder on this machine", "quantctl models inspect ./model",
     &DeclareModelsInspect},
    {"tokens create", "Make an access token; it is shown once",
     "quantctl tokens create --role user --tenant vision --days 30", &DeclareTokensCreate},
    {"tokens list", "List access tokens, newest first", "quantctl tokens list", &DeclareTokensList},
    {"tokens revoke", "Revoke access tokens for good", "quantctl tokens revoke 3f29c1d07a5b",
     &DeclareTokensRevoke},
    {"tokens whoami", "Say whom your token stands for", "quantctl tokens whoami",
     &DeclareTokensWhoAmI},
    {"secrets put", "Keep a secret's value", "quantctl secrets put HF_TOKEN --from-env HF_TOKEN",
     &DeclareSecretsPut},
    {"secrets list", "List the names of secrets", "quantctl secrets list", &DeclareSecretsList},
    {"secrets delete", "Forget a secret", "quantctl secrets delete HF_TOKEN",
     &DeclareSecretsDelete},
    {"top", "Watch workers and queue", "quantctl top --interval 5s", &DeclareTop},
    {"explain", "Say why a job waits, or where its time goes", "quantctl explain 7f3a",
     &DeclareExplain},
    {"doctor", "Check scheduler, machine, GPU and Hub, and say how to mend what is wrong",
     "quantctl doctor --only scheduler", &DeclareDoctor},
    {"completion", "Print a completion script for a shell", "source <(quantctl completion bash)",
     &DeclareCompletion},
    {"version", "Print the version", "quantctl version", &DeclareVersion},
};

}  // namespace

absl::Span<const Command> Commands() { return kCommands; }
absl::Span<const CommandGroup> CommandGroups() { return kGroups; }

}  // namespace quantd
