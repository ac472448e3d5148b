// Spans from the same stretches of time that `quantctl explain` prints.
#include "client/render/otlp.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "base/trace.h"
#include "client/render/board.h"
#include "nlohmann/json.hpp"

namespace quantd {
namespace {

using nlohmann::json;

// opentelemetry.proto.trace.v1: SPAN_KIND_INTERNAL, STATUS_CODE_OK, STATUS_CODE_ERROR.
constexpr int kInternal = 1;
constexpr int kStatusOk = 1;
constexpr int kStatusError = 2;

json Attribute(const std::string& key, const std::string& value) {
  return {{"key", key}, {"value", {{"stringValue", OneLine(value)}}}};
}

// 64-bit numbers are strings in proto3-JSON.
std::string Nanos(absl::Time time) { return absl::StrCat(absl::ToUnixNanos(time)); }

struct Node {
  std::string name;
  std::string part;
  std::string parent;  // Its part; of the job itself nothing.
  absl::Time start, end;
  json attributes = json::array();
  int status = 0;
  std::string message;
};

json SpanJson(const std::string& job, const Node& node) {
  json span = {{"traceId", TraceId(job)},
               {"spanId", SpanId(job, node.part)},
               {"name", node.name},
               {"kind", kInternal},
               {"startTimeUnixNano", Nanos(node.start)},
               {"endTimeUnixNano", Nanos(node.end)},
               {"attributes", node.attributes}};
  if (!node.part.empty()) span["parentSpanId"] = SpanId(job, node.parent);
  if (node.status != 0) span["status"] = {{"code", node.status}, {"message", node.message}};
  return span;
}

}  // namespace

std::string OtlpTrace(const ExplainedJob& explained, absl::Time now) {
  const v1::Job& job = explained.job;
  std::vector<Node> nodes(1);
  nodes[0].name = absl::StrCat("job ", ShortName(job.name()));
  nodes[0].attributes =
      json::array({Attribute("quantd.job", job.name()), Attribute("quantd.sweep", job.sweep()),
                   Attribute("quantd.state", StateWord(job.state()))});
  std::map<int, Node> attempts;
  int number = 0;  // The same phase may come back: a span has to have an id of its own.
  for (const Span& span : SpansOf(explained.events, now)) {
    Node node;
    node.name = OneLine(span.what);
    node.start = span.start;
    node.end = span.start + span.time;
    node.part = absl::StrCat(++number, " ", span.what);
    if (span.attempt > 0) {
      node.parent = AttemptPart(span.attempt);
      node.part = absl::StrCat(node.parent, "/", node.part);
      Node& attempt = attempts[span.attempt];
      if (attempt.part.empty()) attempt.start = node.start;
      attempt.name = attempt.part = node.parent;
      attempt.end = node.end;
    }
    if (number == 1) nodes[0].start = node.start;
    nodes[0].end = node.end;
    nodes.push_back(std::move(node));
  }
  for (const v1::JobEvent& event : explained.events) {
    const auto attempt = attempts.find(event.failure().attempt());
    if (!event.has_failure() || attempt == attempts.end()) continue;
    attempt->second.status = kStatusError;
    attempt->second.message = OneLine(event.failure().message());
  }
  for (auto& [attempt, node] : attempts) {
    node.attributes.push_back(Attribute("quantd.worker", job.worker()));
    nodes.push_back(node);
  }
  if (job.state() == v1::JOB_STATE_SUCCEEDED) nodes[0].status = kStatusOk;
  if (job.state() == v1::JOB_STATE_FAILED) {
    nodes[0].status = kStatusError;
    nodes[0].message = OneLine(job.failure().message());
  }
  json spans = json::array();
  for (const Node& node : nodes) spans.push_back(SpanJson(job.name(), node));
  json scope_spans;
  scope_spans["scope"] = {{"name", "quantd"}, {"version", QUANTD_VERSION}};
  scope_spans["spans"] = std::move(spans);
  json resource_spans;
  resource_spans["resource"]["attributes"] = json::array({Attribute("service.name", "quantd")});
  resource_spans["scopeSpans"] = json::array({scope_spans});
  json trace;
  trace["resourceSpans"] = json::array({resource_spans});
  return trace.dump();
}

}  // namespace quantd
