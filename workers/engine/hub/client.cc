// Requests, retries and the meaning of the Hub's answers.
#include "workers/engine/hub/client.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace quantd {
namespace {

constexpr int kAttempts = 5;
constexpr absl::Duration kFirstPause = absl::Seconds(1);
// What a server may ask for at most: longer than the Hub's rate limit window of five minutes.
constexpr absl::Duration kPauseLimit = absl::Minutes(10);
constexpr size_t kFilesLimit = 100'000;
constexpr size_t kEtagLimit = 200;

bool MayPass(int status) { return status == 408 || status == 429 || status >= 500; }

// `W/"abc"` to `abc`, and to a name that is safe for a file.
std::string PlainEtag(absl::string_view etag) {
  if (absl::StartsWith(etag, "W/")) etag.remove_prefix(2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') {
    etag = etag.substr(1, etag.size() - 2);
  }
  const bool safe = !etag.empty() && etag.size() <= kEtagLimit &&
                    std::all_of(etag.begin(), etag.end(), [](unsigned char c) {
                      return absl::ascii_isalnum(c) || c == '-' || c == '_';
                    });
  return safe ? std::string(etag) : Sha256Hex(etag).substr(0, 32);
}

std::string EscapePath(absl::string_view path) {
  std::vector<std::string> parts;
  for (absl::string_view part : absl::StrSplit(path, '/')) parts.push_back(UrlEscape(part));
  return absl::StrJoin(parts, "/");
}

bool IsCommit(absl::string_view text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

}  // namespace

absl::Duration HubClient::Pause(const HttpResponse* response, int failures) const {
  const absl::Duration doubled = kFirstPause * (1 << std::min(failures - 1, 6));
  const std::string wanted = response == nullptr ? "" : response->Header("retry-after");
  if (wanted.empty()) return doubled;
  int64_t seconds = 0;
  absl::Time until;
  std::string error;
  if (absl::SimpleAtoi(wanted, &seconds)) {
    return std::clamp(absl::Seconds(seconds), absl::ZeroDuration(), kPauseLimit);
  }
  if (absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", wanted, &until, &error)) {
    return std::clamp(until - options_.clock->Now(), absl::ZeroDuration(), kPauseLimit);
  }
  return doubled;
}

absl::Status HubClient::Retry(const std::function<absl::StatusOr<HttpResponse>()>& attempt,
                              const std::function<bool()>& moved, absl::string_view what,
                              HttpResponse* response) const {
  for (int failures = 0;;) {
    if (options_.cancelled && options_.cancelled()) return absl::CancelledError("cancelled");
    absl::StatusOr<HttpResponse> answer = attempt();
    const bool passing =
        answer.ok() ? MayPass(answer->status) : absl::IsUnavailable(answer.status());
    if (!passing) {
      QD_RETURN_IF_ERROR(answer.status());
      QD_RETURN_IF_ERROR(AnswerStatus(*answer, what));
      *response = *std::move(answer);
      return absl::OkStatus();
    }
    failures = moved() ? 1 : failures + 1;
    const std::string words = answer.ok() ? absl::StrCat("HTTP ", answer->status)
                                          : std::string(answer.status().message());
    if (failures == kAttempts) {
      return absl::UnavailableError(
          absl::StrCat(what, ": gave up after ", kAttempts, " attempts: ", words));
    }
    const absl::Duration pause = Pause(answer.ok() ? &*answer : nullptr, failures);
    LogWarning("asking the Hub again",
               {{"what", what}, {"why", words}, {"wait", absl::FormatDuration(pause)}});
    if (options_.sleep) {
      options_.sleep(pause);
    } else {
      // In slices, so that cancelling does not wait for a long Retry-After.
      const absl::Duration until = Clock::Real().Monotonic() + pause;
      while (Clock::Real().Monotonic() < until && !(options_.cancelled && options_.cancelled())) {
        absl::SleepFor(std::min(until - Clock::Real().Monotonic(), absl::Milliseconds(200)));
      }
    }
  }
}

absl::Status HubClient::AnswerStatus(const HttpResponse& response, absl::string_view what) const {
  if (response.status < 400) return absl::OkStatus();
  const std::string code = response.Header("x-error-code");
  const std::string page = absl::StrCat(options_.endpoint, "/", model_.repository);
  const absl::string_view token =
      options_.token.empty() ? "HF_TOKEN is not set" : "HF_TOKEN is set, but may lack access";
  if (code == "RevisionNotFound") {
    return absl::NotFoundError(absl::StrCat("repository ", model_.repository, " has no revision \"",
                                            model_.revision, "\""));
  }
  if (code == "EntryNotFound") return absl::NotFoundError(absl::StrCat("no file ", what));
  if (code == "GatedRepo" || response.status == 403) {
    return absl::PermissionDeniedError(
        absl::StrCat("access to ", model_.repository, " is restricted: accept its terms at ", page,
                     " and set HF_TOKEN to a token of that account (", token, ")"));
  }
  // The Hub hides private repositories: it answers 401 for them and for those that do not exist.
  if (response.status == 401) {
    return absl::PermissionDeniedError(absl::StrCat("no repository ", model_.repository,
                                                    ", or it is private: check ", page,
                                                    " and set HF_TOKEN (", token, ")"));
  }
  if (response.status == 404) {
    return absl::NotFoundError(absl::StrCat("no repository ", model_.repository, " at ",
                                            options_.endpoint, " (asked for ", what, ")"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat(what, ": the Hub answers HTTP ", response.status));
}

absl::StatusOr<HttpResponse> HubClient::Ask(HttpRequest request, absl::string_view what) const {
  request.token = options_.token;
  request.stall = options_.stall;
  request.cancelled = options_.cancelled;
  HttpResponse response;
  QD_RETURN_IF_ERROR(
      Retry([&] { return PerformHttp(request); }, [] { return false; }, what, &response));
  return response;
}

absl::StatusOr<HubRevision> HubClient::List() const {
  HttpRequest request;
  request.url = absl::StrCat(options_.endpoint, model_.dataset ? "/api/datasets/" : "/api/models/",
                             model_.repository, "/revision/", UrlEscape(model_.revision));
  QD_ASSIGN_OR_RETURN(HttpResponse response, Ask(std::move(request), "the list of files"));
  const nlohmann::json json = nlohmann::json::parse(response.body, nullptr, false);
  const auto bad = [&](absl::string_view words) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.endpoint, " does not answer as a Hub: ", words));
  };
  if (!json.is_object() || !json.contains("sha") || !json["sha"].is_string() ||
      !json.contains("siblings") || !json["siblings"].is_array()) {
    return bad("no commit or no list of files");
  }
  HubRevision revision;
  revision.commit = json["sha"].get<std::string>();
  if (!IsCommit(revision.commit)) return bad("the commit is not 40 hexadecimal digits");
  if (json["siblings"].size() > kFilesLimit) return bad("too many files");
  for (const nlohmann::json& sibling : json["siblings"]) {
    if (!sibling.is_object() || !sibling.contains("rfilename") ||
        !sibling["rfilename"].is_string()) {
      return bad("a file without a name");
    }
    revision.files.push_back(sibling["rfilename"].get<std::string>());
  }
  return revision;
}

std::string HubClient::FileUrl(const std::string& commit, const std::string& name) const {
  return absl::StrCat(options_.endpoint, model_.dataset ? "/datasets/" : "/", model_.repository,
                      "/resolve/", commit, "/", EscapePath(name));
}

absl::StatusOr<HubFile> HubClient::Describe(const std::string& commit,
                                            const std::string& name) const {
  HttpRequest request;
  request.url = FileUrl(commit, name);
  request.method = "HEAD";
  // Large files redirect to their storage; what describes them is in the Hub's own answer.
  request.leave_host = false;
  QD_ASSIGN_OR_RETURN(HttpResponse response, Ask(std::move(request), name));
  const std::string linked = response.Header("x-linked-etag");
  const std::string etag = linked.empty() ? response.Header("etag") : linked;
  const std::string linked_size = response.Header("x-linked-size");
  const std::string size = linked_size.empty() ? response.Header("content-length") : linked_size;
  HubFile file{.commit = commit, .name = name, .etag = PlainEtag(etag)};
  if (etag.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("the Hub gives no etag for ", name));
  }
  if (!absl::SimpleAtoi(size, &file.size_bytes) || file.size_bytes < 0) {
    return absl::FailedPreconditionError(absl::StrCat("the Hub gives no size for ", name));
  }
  return file;
}

absl::StatusOr<HttpResponse> HubClient::Get(const HubFile& file, HttpRequest request) const {
  request.url = FileUrl(file.commit, file.name);
  request.token = options_.token;
  request.stall = options_.stall;
  request.cancelled = options_.cancelled;
  return PerformHttp(request);
}

}  // namespace quantd
