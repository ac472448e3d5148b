// quantctl benchmark: latency, throughput and memory of a model.
#include "client/commands/commands.h"
#include "client/commands/spec_flags.h"
#include "client/submit.h"

namespace quantd {
namespace {

struct Flags {
  std::string model, baseline;
  std::vector<int> batch_sizes, prompt_lengths;
  int decode_tokens = 0, repetitions = 0, warmup = 0;
  RuntimeFlags runtime;
  SubmitFlags submit;
};

}  // namespace

Action DeclareBenchmark(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("MODEL", flags->model, "Folder, org/name[@revision], jobs/ID or artifacts/SHA")
      ->required();
  app->add_option("--baseline", flags->baseline, "Measure this model in turns with it")
      ->type_name("MODEL");
  app->add_option("--batch-sizes", flags->batch_sizes, "As 1,8")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--prompt-lengths", flags->prompt_lengths, "Tokens, as 128,1024")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--decode-tokens", flags->decode_tokens, "Tokens generated in each run");
  app->add_option("--repetitions", flags->repetitions, "Measured runs");
  app->add_option("--warmup", flags->warmup, "Runs before the measured ones");
  AddRuntimeFlags(app, &flags->runtime);
  AddSubmitFlags(app, &flags->submit);
  return [flags](Session& session) {
    v1::JobSpec spec;
    v1::BenchmarkSpec* benchmark = spec.mutable_benchmark();
    benchmark->set_model(flags->model);
    benchmark->set_baseline(flags->baseline);
    for (const int size : flags->batch_sizes) benchmark->add_batch_sizes(size);
    for (const int length : flags->prompt_lengths) benchmark->add_prompt_lengths(length);
    benchmark->set_decode_tokens(flags->decode_tokens);
    benchmark->set_repetitions(flags->repetitions);
    benchmark->set_warmup(flags->warmup);
    const absl::Status status = ApplyRuntime(flags->runtime, &spec);
    return status.ok() ? RunJob(session, spec, flags->submit) : session.Fail(status);
  };
}

}  // namespace quantd
