// Requests are built from a table-free core: Ask signs, sends and tries again; the methods name the
// few codes that mean success to them.
#include "server/artifacts/s3_client.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "server/artifacts/s3_signature.h"

namespace quantd {
namespace {

constexpr absl::Duration kRetryPause = absl::Milliseconds(200);
constexpr absl::Duration kConnect = absl::Seconds(5);
constexpr absl::Duration kHurry = absl::Seconds(2);
// The storage may work for minutes at putting thousands of parts together.
constexpr absl::Duration kCompleteStall = absl::Minutes(2);
constexpr int kUploadPagesMax = 10;

// The text of the first element of that name. Keys, tags and ids of ours hold nothing that XML
// escapes but the quotes around a tag.
std::string Element(absl::string_view xml, absl::string_view name) {
  const size_t open = xml.find(absl::StrCat("<", name, ">"));
  if (open == absl::string_view::npos) return "";
  const size_t start = open + name.size() + 2;
  const size_t end = xml.find("</", start);
  return absl::StrReplaceAll(xml.substr(start, end == absl::string_view::npos ? 0 : end - start),
                             {{"&quot;", "\""}});
}

// The texts between <name> and </name>, none within another.
std::vector<absl::string_view> Elements(absl::string_view xml, absl::string_view name) {
  const std::string open = absl::StrCat("<", name, ">"), close = absl::StrCat("</", name, ">");
  std::vector<absl::string_view> found;
  for (size_t at = xml.find(open); at != absl::string_view::npos; at = xml.find(open, at)) {
    at += open.size();
    const size_t end = xml.find(close, at);
    if (end == absl::string_view::npos) break;
    found.push_back(xml.substr(at, end - at));
  }
  return found;
}

// Between half and all of what doubles with every attempt, so that callers who were turned away
// together do not come back together.
absl::Duration Pause(int attempt) {
  thread_local std::minstd_rand random{std::random_device{}()};
  return kRetryPause * (1 << attempt) * std::uniform_real_distribution<>(0.5, 1.0)(random);
}

bool MayPass(const absl::StatusOr<HttpResponse>& answer) {
  if (!answer.ok()) return absl::IsUnavailable(answer.status());
  return answer->status == 429 || answer->status >= 500 ||
         (answer->status == 400 && Element(answer->body, "Code") == "RequestTimeout");
}

// What a person can do about it, by the storage's own name of the error.
struct Advice {
  absl::string_view code;
  absl::string_view words;
};
constexpr Advice kAdvice[] = {
    {"NoSuchBucket", "; create the bucket, or name another one with --artifacts"},
    {"InvalidAccessKeyId", "; check AWS_ACCESS_KEY_ID, or the file with the keys"},
    {"SignatureDoesNotMatch", "; check AWS_SECRET_ACCESS_KEY, or the file with the keys"},
    {"AccessDenied",
     "; the key needs s3:GetObject, PutObject, DeleteObject, AbortMultipartUpload, ListBucket and "
     "ListBucketMultipartUploads on the bucket"},
    {"ExpiredToken", "; the keys were temporary: a file with fresh ones is read again by itself"},
    {"RequestTimeTooSkewed", "; set this machine's clock"},
    {"AuthorizationHeaderMalformed", "; give the bucket's region with region=NAME"},
    {"PermanentRedirect", "; give the bucket's region with region=NAME"},
};

bool RefusesKeys(const HttpResponse& answer) {
  return answer.status == 403 ||
         (answer.status == 400 && absl::StrContains(Element(answer.body, "Code"), "Token"));
}

}  // namespace

S3Body S3TextBody(absl::string_view text) {
  return {.bytes = TextBody(text), .sha256 = Sha256Hex(text)};
}

struct S3Client::Request {
  const char* method = "GET";
  std::string key = {};  // Empty: the bucket itself.
  std::map<std::string, std::string> query = {};
  S3Body body = S3TextBody("");
  int64_t offset_bytes = 0;
  int64_t limit_bytes = 0;  // Above 0: that range.
  bool hurry = false;
  absl::Duration stall = absl::ZeroDuration();  // 0: the configuration's.
};

S3Client::S3Client(S3Config config) : config_(std::move(config)), keys_(config_.keys) {}

std::string S3Client::Host() const {
  absl::string_view host = config_.endpoint;
  // As libcurl writes it into the header.
  if (absl::ConsumePrefix(&host, "https://")) absl::ConsumeSuffix(&host, ":443");
  if (absl::ConsumePrefix(&host, "http://")) absl::ConsumeSuffix(&host, ":80");
  return config_.path_style ? std::string(host) : absl::StrCat(config_.bucket, ".", host);
}

std::string S3Client::PathOf(const std::string& key) const {
  // Bucket, prefix and keys of ours hold nothing that is escaped.
  const std::string object = key.empty() ? "" : config_.prefix + key;
  return config_.path_style ? absl::StrCat("/", config_.bucket, "/", object)
                            : absl::StrCat("/", object);
}

S3Keys S3Client::Keys() {
  absl::MutexLock lock(&mutex_);
  return keys_;
}

bool S3Client::HasNewKeys(const S3Keys& refused) {
  absl::MutexLock lock(&mutex_);
  if (!(keys_ == refused)) return true;  // Another thread has found them.
  if (config_.keys_file.empty()) return false;
  const auto keys = ReadS3Keys(config_.keys_file, config_.profile);
  if (!keys.ok() || *keys == refused) return false;
  LogInfo("fresh keys for the bucket", {{"file", config_.keys_file}});
  keys_ = *keys;
  return true;
}

absl::Status S3Client::Error(const HttpResponse& answer, absl::string_view what) const {
  std::string code = Element(answer.body, "Code");
  // The answer to HEAD has no body.
  if (answer.status == 404 && code != "NoSuchBucket") {
    return absl::NotFoundError(
        absl::StrCat(what, ": there is no such ", code == "NoSuchUpload" ? "upload" : "object"));
  }
  if (code.empty() && answer.status == 403) code = "AccessDenied";
  absl::string_view advice;
  for (const Advice& row : kAdvice) {
    if (row.code == code) advice = row.words;
  }
  const std::string region = answer.Header("x-amz-bucket-region");
  const std::string words = absl::StrCat(
      what, " at ", config_.endpoint, ": the storage answers ", answer.status, " ", code, " ",
      Element(answer.body, "Message"),
      region.empty() || region == config_.region ? "" : absl::StrCat(" (region ", region, ")"),
      advice);
  return absl::UnavailableError(words);
}

absl::StatusOr<HttpResponse> S3Client::AskOnce(const Request& request, const S3Keys& keys) {
  const std::string host = Host(), path = PathOf(request.key), query = S3Query(request.query);
  const absl::string_view scheme =
      absl::string_view(config_.endpoint).substr(0, config_.endpoint.find("//") + 2);
  HttpRequest http;
  http.url = absl::StrCat(scheme, host, path, query.empty() ? "" : "?", query);
  http.method = request.method;
  http.headers = SignS3(keys, config_.region,
                        {.method = request.method,
                         .host = host,
                         .path = path,
                         .query = request.query,
                         .body_sha256 = request.body.sha256,
                         .time = absl::Now()});
  http.headers.push_back("Expect:");  // Nobody waits for "100 Continue".
  http.body = request.body.bytes;
  http.offset_bytes = request.offset_bytes;
  http.limit_bytes = request.limit_bytes;
  http.leave_host = false;
  http.connect = request.hurry ? kHurry : kConnect;
  http.stall = request.hurry ? kHurry : std::max(request.stall, config_.stall);
  http.authorities = config_.authorities;
  http.connections = &connections_;
  return PerformHttp(http);
}

absl::StatusOr<HttpResponse> S3Client::Ask(const Request& request) {
  const int attempts = request.hurry ? 1 : config_.attempts;
  for (int attempt = 1;; ++attempt) {
    const S3Keys keys = Keys();
    absl::StatusOr<HttpResponse> answer = AskOnce(request, keys);
    if (answer.ok() && RefusesKeys(*answer) && HasNewKeys(keys) && attempt <= attempts) continue;
    if (!MayPass(answer) || attempt >= attempts) return answer;
    absl::SleepFor(Pause(attempt));
  }
}

absl::StatusOr<std::optional<int64_t>> S3Client::Size(const std::string& key) {
  QD_ASSIGN_OR_RETURN(const HttpResponse answer, Ask({.method = "HEAD", .key = key}));
  if (answer.status == 404) return std::nullopt;
  int64_t size = 0;
  if (answer.status == 200 && absl::SimpleAtoi(answer.Header("content-length"), &size)) return size;
  return Error(answer, absl::StrCat("looking at ", config_.Place(), key));
}

absl::StatusOr<std::string> S3Client::Get(const S3Read& read) {
  if (read.limit_bytes <= 0) return "";
  QD_ASSIGN_OR_RETURN(HttpResponse answer, Ask({.key = read.key,
                                                .offset_bytes = read.offset_bytes,
                                                .limit_bytes = read.limit_bytes,
                                                .hurry = read.hurry}));
  if (answer.status == 416) return "";  // Beyond the end.
  if (answer.status == 206 || (answer.status == 200 && read.offset_bytes == 0)) {
    return std::move(answer.body);
  }
  return Error(answer, absl::StrCat("reading ", config_.Place(), read.key));
}

absl::Status S3Client::Put(const std::string& key, const S3Body& body) {
  QD_ASSIGN_OR_RETURN(const HttpResponse answer, Ask({.method = "PUT", .key = key, .body = body}));
  if (answer.status == 200) return absl::OkStatus();
  return Error(answer, absl::StrCat("writing ", config_.Place(), key));
}

absl::StatusOr<S3Page> S3Client::List(const std::string& folder, const std::string& after,
                                      int64_t limit) {
  Request request;
  request.query = {
      {"list-type", "2"}, {"prefix", config_.prefix + folder}, {"max-keys", absl::StrCat(limit)}};
  if (!after.empty()) request.query["start-after"] = config_.prefix + after;
  QD_ASSIGN_OR_RETURN(const HttpResponse answer, Ask(request));
  if (answer.status != 200) {
    return Error(answer, absl::StrCat("listing ", config_.Place(), folder));
  }
  S3Page page;
  for (const absl::string_view entry : Elements(answer.body, "Contents")) {
    S3Object object{.key = Element(entry, "Key")};
    if (!absl::StartsWith(object.key, config_.prefix) ||
        !absl::SimpleAtoi(Element(entry, "Size"), &object.size_bytes)) {
      return absl::UnavailableError(absl::StrCat("listing ", config_.Place(), folder, " at ",
                                                 config_.endpoint, ": no such list was asked for"));
    }
    object.key.erase(0, config_.prefix.size());
    page.objects.push_back(std::move(object));
  }
  page.more = Element(answer.body, "IsTruncated") == "true" && !page.objects.empty();
  return page;
}

absl::Status S3Client::Delete(const std::string& key) {
  QD_ASSIGN_OR_RETURN(const HttpResponse answer, Ask({.method = "DELETE", .key = key}));
  if (answer.status == 204 || answer.status == 200 || answer.status == 404) return absl::OkStatus();
  return Error(answer, absl::StrCat("removing ", config_.Place(), key));
}

std::string S3Client::Link(const std::string& key, absl::Duration valid) {
  const std::string host = Host(), path = PathOf(key);
  S3ToSign request{.method = "GET", .host = host, .path = path, .time = absl::Now()};
  return absl::StrCat(config_.endpoint.substr(0, config_.endpoint.find("//") + 2), host, path, "?",
                      PresignS3(Keys(), config_.region, std::move(request), valid));
}

absl::StatusOr<std::string> S3Client::StartParts(const std::string& key) {
  QD_ASSIGN_OR_RETURN(const HttpResponse answer,
                      Ask({.method = "POST", .key = key, .query = {{"uploads", ""}}}));
  std::string upload = Element(answer.body, "UploadId");
  if (answer.status == 200 && !upload.empty()) return upload;
  return Error(answer, absl::StrCat("starting to write ", config_.Place(), key));
}

absl::StatusOr<std::string> S3Client::PutPart(const std::string& key, const std::string& upload,
                                              int number, const S3Body& body) {
  QD_ASSIGN_OR_RETURN(const HttpResponse answer,
                      Ask({.method = "PUT",
                           .key = key,
                           .query = {{"partNumber", absl::StrCat(number)}, {"uploadId", upload}},
                           .body = body}));
  std::string tag = answer.Header("etag");
  if (answer.status == 200 && !tag.empty()) return tag;
  return Error(answer, absl::StrCat("writing part ", number, " of ", config_.Place(), key));
}

absl::Status S3Client::CompleteParts(const std::string& key, const std::string& upload,
                                     const std::vector<std::string>& part_tags,
                                     int64_t size_bytes) {
  std::string body = "<CompleteMultipartUpload>";
  for (size_t i = 0; i < part_tags.size(); ++i) {
    absl::StrAppend(&body, "<Part><PartNumber>", i + 1, "</PartNumber><ETag>", part_tags[i],
                    "</ETag></Part>");
  }
  absl::StrAppend(&body, "</CompleteMultipartUpload>");
  const auto answer = Ask({.method = "POST",
                           .key = key,
                           .query = {{"uploadId", upload}},
                           .body = S3TextBody(body),
                           .stall = kCompleteStall});
  // The answer may be an error although the object is there (the first of two attempts did it), and
  // 200 with an error inside although it is not: the object itself decides.
  QD_ASSIGN_OR_RETURN(const std::optional<int64_t> there, Size(key));
  if (there == size_bytes) return absl::OkStatus();
  QD_RETURN_IF_ERROR(answer.status());
  absl::Status error =
      Error(*answer, absl::StrCat("putting the parts of ", config_.Place(), key, " together"));
  // Parts that are not there, or not the same, are sent again.
  return answer->status == 400 ? absl::NotFoundError(error.message()) : error;
}

absl::Status S3Client::AbortParts(const std::string& key, const std::string& upload) {
  QD_ASSIGN_OR_RETURN(const HttpResponse answer,
                      Ask({.method = "DELETE", .key = key, .query = {{"uploadId", upload}}}));
  if (answer.status == 204 || answer.status == 200 || answer.status == 404) return absl::OkStatus();
  return Error(answer, absl::StrCat("giving the upload of ", config_.Place(), key, " up"));
}

absl::StatusOr<std::vector<S3OpenUpload>> S3Client::OpenUploads(const std::string& key_prefix) {
  std::vector<S3OpenUpload> uploads;
  Request request;
  request.query = {{"uploads", ""}, {"prefix", config_.prefix + key_prefix}};
  for (int page = 0; page < kUploadPagesMax; ++page) {
    QD_ASSIGN_OR_RETURN(const HttpResponse answer, Ask(request));
    if (answer.status != 200) {
      return Error(answer, absl::StrCat("listing the open uploads of ", config_.Place()));
    }
    for (const absl::string_view entry : Elements(answer.body, "Upload")) {
      S3OpenUpload upload{.key = Element(entry, "Key"), .id = Element(entry, "UploadId")};
      if (!absl::StartsWith(upload.key, config_.prefix) ||
          !absl::ParseTime(absl::RFC3339_full, Element(entry, "Initiated"), &upload.start,
                           nullptr)) {
        continue;
      }
      upload.key.erase(0, config_.prefix.size());
      uploads.push_back(std::move(upload));
    }
    if (Element(answer.body, "IsTruncated") != "true") break;
    request.query["key-marker"] = Element(answer.body, "NextKeyMarker");
    request.query["upload-id-marker"] = Element(answer.body, "NextUploadIdMarker");
  }
  return uploads;
}

}  // namespace quantd
