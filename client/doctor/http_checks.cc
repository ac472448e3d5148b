// What is asked over HTTP: a worker's metrics, and the Hub.
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "client/doctor/findings.h"
#include "client/doctor/http_get.h"
#include "nlohmann/json.hpp"

namespace quantd {
namespace {

// A poll is answered within twenty seconds; two may be lost.
constexpr absl::Duration kWorkerSilence = absl::Seconds(60);
constexpr char kLastAnswer[] = "quantd_worker_last_answer_timestamp_seconds ";

std::string HubToken(const Session& session) {
  if (const std::string token = session.Variable("HF_TOKEN"); !token.empty()) return token;
  std::string home = session.Variable("HF_HOME");
  if (home.empty()) home = session.Variable("HOME") + "/.cache/huggingface";
  const absl::StatusOr<std::string> kept = ReadFile(home + "/token", 4096);
  return kept.ok() ? std::string(absl::StripAsciiWhitespace(*kept)) : "";
}

}  // namespace

std::vector<Finding> CheckWorker(const std::string& address) {
  const absl::StatusOr<HttpAnswer> answer = HttpGet(absl::StrCat("http://", address, "/metrics"));
  if (!answer.ok()) {
    return {{"worker", Verdict::kProblem,
             absl::StrCat("asking http://", address, "/metrics: ", answer.status().message()),
             "start quant-worker, or name its --metrics-listen with --worker-metrics HOST:PORT"}};
  }
  for (const absl::string_view line : absl::StrSplit(answer->body, '\n')) {
    double seconds = 0;
    absl::string_view value = line;
    if (!absl::ConsumePrefix(&value, kLastAnswer) || !absl::SimpleAtod(value, &seconds)) continue;
    if (seconds == 0) {
      return {{"worker", Verdict::kProblem, "it runs and has never reached its scheduler",
               "check its --scheduler; its log names the error"}};
    }
    const absl::Duration silence = absl::Now() - absl::UnixEpoch() - absl::Seconds(seconds);
    if (silence > kWorkerSilence) {
      return {{"worker", Verdict::kProblem,
               absl::StrCat("its scheduler has not answered for ", ShortDuration(silence)),
               "run quantctl doctor --scheduler HOST:PORT on the worker's machine"}};
    }
    return {{"worker", Verdict::kOk,
             absl::StrCat("its scheduler answered ", ShortDuration(silence), " ago")}};
  }
  return {{"worker", Verdict::kProblem,
           absl::StrCat("http://", address, "/metrics is not a quant-worker's"),
           "name the worker's --metrics-listen with --worker-metrics HOST:PORT"}};
}

std::vector<Finding> CheckHub(const Session& session) {
  std::string endpoint = session.Variable("HF_ENDPOINT");
  if (endpoint.empty()) endpoint = "https://huggingface.co";
  while (absl::EndsWith(endpoint, "/")) endpoint.pop_back();
  const std::string token = HubToken(session);
  const absl::StatusOr<HttpAnswer> answer = HttpGet(
      token.empty() ? endpoint + "/api/models?limit=1" : endpoint + "/api/whoami-v2", token);
  if (!answer.ok()) {
    return {{"hub", Verdict::kWarning,
             absl::StrCat("reaching ", endpoint, ": ", answer.status().message()),
             "models in local folders work without it; else set HTTPS_PROXY, or HF_ENDPOINT to a "
             "mirror"}};
  }
  if (!token.empty() && (answer->status == 401 || answer->status == 403)) {
    return {{"hub", Verdict::kProblem, absl::StrCat(endpoint, " refuses the token"),
             absl::StrCat("make a new one at ", endpoint, "/settings/tokens, set HF_TOKEN")}};
  }
  if (answer->status != 200) {
    return {{"hub", Verdict::kWarning,
             absl::StrCat(endpoint, " answers with status ", answer->status),
             "try again later; models in local folders work without it"}};
  }
  if (token.empty()) {
    return {{"hub", Verdict::kNote,
             absl::StrCat(endpoint, " answers; without a token gated models cannot be read"),
             "set HF_TOKEN where the worker runs"}};
  }
  const nlohmann::json who = nlohmann::json::parse(answer->body, nullptr, false);
  const std::string name = who.is_object() && who.contains("name") && who["name"].is_string()
                               ? who["name"].get<std::string>()
                               : "somebody";
  return {{"hub", Verdict::kOk, absl::StrCat(endpoint, " knows the token of ", OneLine(name))}};
}

}  // namespace quantd
