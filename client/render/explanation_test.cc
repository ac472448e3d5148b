// Why a job waits and where its time went, from scripted records and events.
#include "client/render/explanation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_join.h"
#include "base/trace.h"
#include "client/render/otlp.h"
#include "client/render/top.h"
#include "nlohmann/json.hpp"
#include "proto/yaml.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

template <typename Message>
Message FromYaml(const std::string& yaml) {
  Message message;
  const absl::Status status = YamlToMessage(yaml, "test", &message);
  EXPECT_TRUE(status.ok()) << status;
  return message;
}

constexpr char kNow[] = "2026-01-01T01:00:00Z";
absl::Time Now() {
  absl::Time now;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, kNow, &now, nullptr));
  return now;
}

// Two attempts: the first one dies in "quantize", the second one goes on from its checkpoint.
std::vector<v1::JobEvent> TwoAttempts() {
  std::vector<v1::JobEvent> events;
  for (const char* yaml :
       {"{time: '2026-01-01T00:00:00Z', state: {state: pending}}",
        "{time: '2026-01-01T00:02:00Z', state: {state: queued}}",
        "{time: '2026-01-01T00:03:00Z', attempt: 1, state: {state: running}}",
        "{time: '2026-01-01T00:03:10Z', attempt: 1, progress: {phase: load}}",
        "{time: '2026-01-01T00:04:00Z', attempt: 1, progress: {phase: quantize, done: 1}}",
        "{time: '2026-01-01T00:09:00Z', attempt: 1, progress: {phase: quantize, done: 9}}",
        "{time: '2026-01-01T00:09:00Z', attempt: 1, checkpoint: {blocks_done: 9, "
        "blocks_total: 32}}",
        "{time: '2026-01-01T00:10:00Z', attempt: 1, failure: {error_class: worker_lost, attempt: "
        "1, message: the lease ran out, remedy: look at it}}",
        "{time: '2026-01-01T00:10:00Z', attempt: 1, state: {state: queued}}",
        "{time: '2026-01-01T00:11:00Z', attempt: 2, state: {state: running}}",
        "{time: '2026-01-01T00:11:00Z', attempt: 2, progress: {phase: quantize, done: 10}}",
        "{time: '2026-01-01T00:20:00Z', attempt: 2, fallback: {kind: damping, module: "
        "layers.3.q_proj, description: 0.02}}"}) {
    events.push_back(FromYaml<v1::JobEvent>(yaml));
  }
  return events;
}

TEST(Explanation, TimeIsDividedBetweenWaitsAndPhases) {
  std::vector<std::string> texts;
  for (const Span& span : SpansOf(TwoAttempts(), Now())) {
    texts.push_back(absl::StrCat(span.what, " ", span.attempt, " ", ShortDuration(span.time)));
  }
  EXPECT_EQ(absl::StrJoin(texts, "; "),
            "waiting for other jobs 0 2m00s; waiting in the queue 0 1m00s; starting 1 10s; "
            "load 1 50s; quantize 1 6m00s; waiting in the queue 0 1m00s; quantize 2 49m00s");
}

TEST(Explanation, TheTimeOfAnEndedJobStands) {
  std::vector<v1::JobEvent> events = TwoAttempts();
  events.push_back(
      FromYaml<v1::JobEvent>("{time: '2026-01-01T00:30:00Z', attempt: 2, state: {state: "
                             "succeeded}}"));
  EXPECT_EQ(ShortDuration(SpansOf(events, Now()).back().time), "19m00s");
}

TEST(Explanation, ARunningJob) {
  ExplainedJob explained;
  explained.job = FromYaml<v1::Job>(
      "{name: tenants/default/jobs/7f3a, state: running, attempt: 2, worker: workers/w1, progress: "
      "{phase: quantize, done: 20, total: 32, unit: block}}");
  explained.events = TwoAttempts();
  explained.workers = {
      FromYaml<v1::Worker>("{name: workers/w1, state: BUSY, last_seen_time: "
                           "'2026-01-01T00:59:57Z'}")};
  const std::string text = absl::StrJoin(ExplanationLines(explained, Now(), {}), "\n");
  EXPECT_THAT(text, HasSubstr("now:      quantize 20/32 block, attempt 2 on workers/w1\n"
                              "worker:   heard of 3s ago\n"));
  EXPECT_THAT(text, HasSubstr("where 1h00m went, 2 attempts\n"
                              "  quantize                ##################..  92%  55m00s\n"
                              "  waiting for other jobs  #...................  3%  2m00s\n"));
  EXPECT_THAT(text, HasSubstr("attempt 1 failed: worker lost: the lease ran out\n  -> look at it"));
  EXPECT_THAT(text, HasSubstr("fallback: damping layers.3.q_proj: 0.02"));
  EXPECT_THAT(text, HasSubstr("safe:     9 of 32 blocks are stored"));
}

TEST(Explanation, AWaitingJob) {
  ExplainedJob explained;
  explained.job = FromYaml<v1::Job>(
      "{name: tenants/default/jobs/7f3a, state: queued, queue_position: 4, waiting_reason: 'no "
      "worker has a cuda device', not_before: '2026-01-01T01:00:30Z', spec: {priority: 5}}");
  explained.dependencies = {
      FromYaml<v1::Job>("{name: tenants/default/jobs/81bc, state: running}"),
      FromYaml<v1::Job>("{name: tenants/default/jobs/ended, state: succeeded}")};
  explained.workers = {FromYaml<v1::Worker>("{name: workers/w1, state: IDLE}"),
                       FromYaml<v1::Worker>("{name: workers/w2, state: LOST}")};
  EXPECT_EQ(absl::StrJoin(ExplanationLines(explained, Now(), {}), "\n"),
            "jobs/7f3a  queued\n"
            "trace:    " +
                TraceId("tenants/default/jobs/7f3a") +
                "\n"
                "why:      no worker has a cuda device\n"
                "place:    4 in the queue, priority 5\n"
                "after:    jobs/81bc, running\n"
                "retry in: 30s\n"
                "workers:  1 idle, 1 lost");
}

TEST(Otlp, ATreeOfSpansWithTheJobsTrace) {
  ExplainedJob explained;
  explained.job = FromYaml<v1::Job>("{name: tenants/default/jobs/7f3a, state: running}");
  explained.events = TwoAttempts();
  const nlohmann::json trace = nlohmann::json::parse(OtlpTrace(explained, Now()));
  const auto& spans = trace["resourceSpans"][0]["scopeSpans"][0]["spans"];
  ASSERT_EQ(spans.size(), 10u);  // The job, seven stretches, two attempts.
  std::map<std::string, nlohmann::json> by_id;
  for (const auto& span : spans) {
    EXPECT_EQ(span["traceId"], TraceId("tenants/default/jobs/7f3a"));
    EXPECT_TRUE(by_id.emplace(span["spanId"].get<std::string>(), span).second) << span;
  }
  for (const auto& span : spans) {
    if (!span.contains("parentSpanId")) continue;
    const auto parent = by_id.find(span["parentSpanId"].get<std::string>());
    ASSERT_NE(parent, by_id.end()) << span;
    EXPECT_LE(parent->second["startTimeUnixNano"], span["startTimeUnixNano"]);
    EXPECT_GE(parent->second["endTimeUnixNano"], span["endTimeUnixNano"]);
  }
  EXPECT_FALSE(spans[0].contains("parentSpanId"));
  EXPECT_EQ(spans[0]["startTimeUnixNano"], "1767225600000000000");
  const auto& attempt = by_id[SpanId("tenants/default/jobs/7f3a", AttemptPart(1))];
  EXPECT_EQ(attempt["status"]["message"], "the lease ran out");
}

TopState ExampleTop() {
  TopState state;
  state.address = "127.0.0.1:7717";
  state.version = "0.1.0";
  state.serving = true;
  state.queued = 2;
  state.workers = {
      FromYaml<v1::Worker>(
          "{name: workers/gpu-1, state: BUSY, job: tenants/default/jobs/7f3a, last_seen_time: "
          "'2026-01-01T00:59:58Z', catalog: {devices: [{type: cpu}, {type: cuda, name: H100, "
          "memory_bytes: 85899345920}]}}"),
      FromYaml<v1::Worker>(
          "{name: workers/cpu-1, state: IDLE, last_seen_time: '2026-01-01T00:59:59Z'}")};
  state.running = {FromYaml<v1::Job>(
      "{name: tenants/default/jobs/7f3a, worker: workers/gpu-1, spec: {quantize: {}}, progress: "
      "{phase: quantize, done: 12, total: 32, unit: block}}")};
  state.waiting = {FromYaml<v1::Job>(
      "{name: tenants/default/jobs/81bc, queue_position: 1, waiting_reason: next in line for a "
      "free worker, create_time: '2026-01-01T00:58:00Z', spec: {evaluate: {}}}")};
  return state;
}

TEST(Top, ShowsWorkersAndWhatWaits) {
  EXPECT_EQ(
      absl::StrJoin(TopLines(ExampleTop(), 0, 0, Now(), {}), "\n"),
      "quantd 127.0.0.1:7717  0.1.0  serving  workers: 1 idle, 1 busy, 0 draining, 0 lost  jobs: "
      "1 running, 2 queued, 0 pending\n"
      "worker  state  device         kind      job   progress                seen\n"
      "gpu-1   busy   H100 80.0 GiB  quantize  7f3a  quantize 12/32 block  2s ago\n"
      "cpu-1   idle   cpu                                                  1s ago\n"
      "waiting  place  kind      since  why\n"
      "81bc         1  evaluate  2m00s  next in line for a free worker");
}

TEST(Top, FitsTheTerminal) {
  TopState state = ExampleTop();
  for (int i = 0; i < 40; ++i) {
    state.workers.push_back(state.workers[1]);
    state.waiting.push_back(state.waiting[0]);
  }
  state.trouble = "out of date: the scheduler cannot be reached";
  for (const size_t height : {6u, 10u, 24u, 50u}) {
    const std::vector<std::string> lines = TopLines(state, 40, height, Now(), {});
    EXPECT_LE(lines.size(), height);
    EXPECT_THAT(absl::StrJoin(lines, "\n"), HasSubstr("more)"));
    for (const std::string& line : lines) EXPECT_LE(DisplayWidth(line), 40u) << line;
  }
  state.workers.clear();
  EXPECT_THAT(absl::StrJoin(TopLines(state, 0, 0, Now(), {}), "\n"),
              HasSubstr("no workers; start one with: quant-worker --scheduler 127.0.0.1:7717"));
}

}  // namespace
}  // namespace quantd
