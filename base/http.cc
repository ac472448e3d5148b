// libcurl's easy interface, a handle a request.
#include "base/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace quantd {

// A handle from the idle ones, or a new one; goes back with its connections.
class HttpHandle {
 public:
  explicit HttpHandle(HttpConnections* connections) : connections_(connections) {
    if (connections_ != nullptr) {
      absl::MutexLock lock(&connections_->mutex_);
      if (!connections_->idle_.empty()) {
        curl_ = connections_->idle_.back();
        connections_->idle_.pop_back();
      }
    }
    if (curl_ == nullptr) curl_ = curl_easy_init();
  }
  ~HttpHandle() {
    if (curl_ == nullptr) return;
    if (connections_ == nullptr) {
      curl_easy_cleanup(curl_);
      return;
    }
    curl_easy_reset(curl_);
    absl::MutexLock lock(&connections_->mutex_);
    connections_->idle_.push_back(curl_);
  }
  HttpHandle(const HttpHandle&) = delete;
  HttpHandle& operator=(const HttpHandle&) = delete;
  CURL* get() const { return curl_; }

 private:
  HttpConnections* const connections_;
  CURL* curl_ = nullptr;
};

HttpConnections::~HttpConnections() {
  absl::MutexLock lock(&mutex_);
  for (void* curl : idle_) curl_easy_cleanup(curl);
}

namespace {

constexpr int kRedirectsLimit = 10;
constexpr size_t kHeadersLimit = 200;
// Where there is another way if this one is closed.
constexpr absl::Duration kFetchConnect = absl::Seconds(5);
// Fewer and larger reads of a body than libcurl's 64 KiB.
constexpr long kUploadBufferBytes = 512L << 10;

struct Transfer {
  const HttpRequest* request;
  CURL* handle;
  HttpResponse response;
  absl::Status status;
  bool begun = false;
  int64_t sent_bytes = 0;

  bool TakesBody() const {
    return request->sink && (response.status == 200 || response.status == 206);
  }
};

size_t OnHeader(char* data, size_t size, size_t count, void* user) {
  auto* transfer = static_cast<Transfer*>(user);
  const absl::string_view line(data, size * count);
  if (absl::StartsWith(line, "HTTP/")) {
    transfer->response.headers.clear();
    return line.size();
  }
  const size_t colon = line.find(':');
  if (colon != absl::string_view::npos && transfer->response.headers.size() < kHeadersLimit) {
    transfer->response.headers[absl::AsciiStrToLower(line.substr(0, colon))] =
        std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  }
  return line.size();
}

size_t OnBody(char* data, size_t size, size_t count, void* user) {
  auto* transfer = static_cast<Transfer*>(user);
  const absl::string_view bytes(data, size * count);
  long status = 0;
  curl_easy_getinfo(transfer->handle, CURLINFO_RESPONSE_CODE, &status);
  transfer->response.status = static_cast<int>(status);
  if (!transfer->TakesBody()) {
    if (transfer->response.body.size() + bytes.size() > kHttpBodyLimitBytes) {
      transfer->status = absl::ResourceExhaustedError("the server's answer is too large");
      return 0;
    }
    transfer->response.body.append(bytes.data(), bytes.size());
    return bytes.size();
  }
  if (!transfer->begun && transfer->request->begin) {
    transfer->status = transfer->request->begin(transfer->response);
  }
  transfer->begun = true;
  if (transfer->status.ok()) transfer->status = transfer->request->sink(bytes);
  return transfer->status.ok() ? bytes.size() : 0;
}

size_t OnRead(char* out, size_t size, size_t count, void* user) {
  auto* transfer = static_cast<Transfer*>(user);
  const HttpBody& body = transfer->request->body;
  const size_t wanted = static_cast<size_t>(
      std::min(static_cast<int64_t>(size * count), body.size_bytes - transfer->sent_bytes));
  if (wanted == 0) return 0;
  transfer->status = body.read(transfer->sent_bytes, out, wanted);
  if (!transfer->status.ok()) return CURL_READFUNC_ABORT;
  transfer->sent_bytes += static_cast<int64_t>(wanted);
  return wanted;
}

// An idle connection that the server had closed: libcurl goes back to the start.
int OnSeek(void* user, curl_off_t offset, int origin) {
  if (origin != SEEK_SET) return CURL_SEEKFUNC_CANTSEEK;
  static_cast<Transfer*>(user)->sent_bytes = offset;
  return CURL_SEEKFUNC_OK;
}

int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto* transfer = static_cast<Transfer*>(user);
  if (!transfer->request->cancelled || !transfer->request->cancelled()) return 0;
  transfer->status = absl::CancelledError("cancelled");
  return 1;
}

void SetBody(CURL* curl, Transfer* transfer) {
  const HttpRequest& request = *transfer->request;
  if (request.method != "GET")
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  if (request.method == "HEAD") curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  if (request.method != "PUT" && request.method != "POST") return;
  curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
  curl_easy_setopt(curl, CURLOPT_READFUNCTION, OnRead);
  curl_easy_setopt(curl, CURLOPT_READDATA, transfer);
  curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, OnSeek);
  curl_easy_setopt(curl, CURLOPT_SEEKDATA, transfer);
  curl_easy_setopt(curl, CURLOPT_UPLOAD_BUFFERSIZE, kUploadBufferBytes);
  curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE,
                   static_cast<curl_off_t>(request.body.size_bytes));
}

void SetPatience(CURL* curl, Transfer* transfer) {
  const HttpRequest& request = *transfer->request;
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(request.connect)));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
                   static_cast<long>(absl::ToInt64Seconds(request.stall)));
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, OnProgress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, transfer);
}

// "0-99", "100-"; empty: all of it.
std::string RangeOf(const HttpRequest& request) {
  if (request.limit_bytes > 0) {
    return absl::StrCat(request.offset_bytes, "-", request.offset_bytes + request.limit_bytes - 1);
  }
  return request.offset_bytes > 0 ? absl::StrCat(request.offset_bytes, "-") : "";
}

// One request without redirects.
absl::StatusOr<HttpResponse> PerformOnce(const HttpRequest& request, const std::string& url,
                                         bool with_token) {
  const HttpHandle handle(request.connections);
  CURL* const curl = handle.get();
  if (curl == nullptr) return absl::InternalError("libcurl does not start");
  Transfer transfer{.request = &request, .handle = curl, .response = {}, .status = {}};
  curl_slist* headers = nullptr;
  for (const std::string& header : request.headers) {
    headers = curl_slist_append(headers, header.c_str());
  }
  if (with_token) {
    headers =
        curl_slist_append(headers, absl::StrCat("Authorization: Bearer ", request.token).c_str());
  }
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> owned(headers, curl_slist_free_all);
  char words[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "quantd/" QUANTD_VERSION);
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, OnHeader);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, words);
  if (!request.authorities.empty()) {
    curl_easy_setopt(curl, CURLOPT_CAINFO, request.authorities.c_str());
  }
  const std::string range = RangeOf(request);
  if (!range.empty()) curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
  SetBody(curl, &transfer);
  SetPatience(curl, &transfer);
  const CURLcode code = curl_easy_perform(curl);
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  transfer.response.status = static_cast<int>(status);
  QD_RETURN_IF_ERROR(transfer.status);
  if (code != CURLE_OK) {
    return absl::UnavailableError(absl::StrCat(
        url.substr(0, url.find('?')), ": ", words[0] != '\0' ? words : curl_easy_strerror(code)));
  }
  // An empty file has no first byte.
  if (transfer.TakesBody() && !transfer.begun && request.begin) {
    QD_RETURN_IF_ERROR(request.begin(transfer.response));
  }
  return std::move(transfer.response);
}

struct Address {
  std::string url;
  std::string origin;  // Scheme, host and port.
  bool secure = false;
};

// `location` as seen from `base`, which may be empty for an absolute one.
absl::StatusOr<Address> Resolve(const std::string& base, const std::string& location) {
  std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> url(curl_url(), curl_url_cleanup);
  const auto part = [&](CURLUPart which) {
    char* text = nullptr;
    std::string result;
    if (curl_url_get(url.get(), which, &text, CURLU_DEFAULT_PORT) == CURLUE_OK) result = text;
    curl_free(text);
    return result;
  };
  if ((!base.empty() && curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK) ||
      curl_url_set(url.get(), CURLUPART_URL, location.c_str(), 0) != CURLUE_OK) {
    return absl::InvalidArgumentError(absl::StrCat("not a URL: ", location.substr(0, 200)));
  }
  const std::string scheme = part(CURLUPART_SCHEME);
  return Address{.url = part(CURLUPART_URL),
                 .origin = absl::StrCat(scheme, "://", absl::AsciiStrToLower(part(CURLUPART_HOST)),
                                        ":", part(CURLUPART_PORT)),
                 .secure = scheme == "https"};
}

}  // namespace

std::string HttpResponse::Header(absl::string_view name) const {
  auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

HttpBody TextBody(absl::string_view text) {
  return {.size_bytes = static_cast<int64_t>(text.size()),
          .read = [text](int64_t offset_bytes, char* out, size_t size_bytes) {
            text.copy(out, size_bytes, static_cast<size_t>(offset_bytes));
            return absl::OkStatus();
          }};
}

absl::StatusOr<HttpResponse> PerformHttp(const HttpRequest& request) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  QD_ASSIGN_OR_RETURN(const Address first, Resolve("", request.url));
  Address at = first;
  for (int hop = 0; hop <= kRedirectsLimit; ++hop) {
    const bool with_token = !request.token.empty() && at.origin == first.origin;
    // The address as it was given, so that its escapes stay as they are.
    QD_ASSIGN_OR_RETURN(HttpResponse response,
                        PerformOnce(request, hop == 0 ? request.url : at.url, with_token));
    const std::string location = response.Header("location");
    if (response.status < 300 || response.status >= 400 || location.empty()) return response;
    QD_ASSIGN_OR_RETURN(Address next, Resolve(at.url, location), "redirected from ", request.url);
    if (next.origin != first.origin && !request.leave_host) return response;
    if (at.secure && !next.secure) {
      return absl::FailedPreconditionError(
          absl::StrCat(request.url, ": redirected from https to http, which is not followed"));
    }
    at = std::move(next);
  }
  return absl::UnavailableError(
      absl::StrCat(request.url, ": more than ", kRedirectsLimit, " redirects"));
}

absl::Status FetchHttp(const HttpRange& range,
                       const std::function<absl::Status(absl::string_view)>& sink) {
  HttpRequest request;
  request.url = range.url;
  request.offset_bytes = range.offset_bytes;
  request.limit_bytes = range.limit_bytes;
  request.leave_host = false;
  request.connect = kFetchConnect;
  request.cancelled = range.cancelled;
  const std::string begin = absl::StrCat("bytes ", range.offset_bytes, "-");
  request.begin = [&](const HttpResponse& response) -> absl::Status {
    const bool whole = range.offset_bytes == 0 && range.limit_bytes == 0;
    if (response.status == 200 ? whole
                               : absl::StartsWith(response.Header("content-range"), begin)) {
      return absl::OkStatus();
    }
    return absl::UnavailableError("the server does not give the range that was asked for");
  };
  request.sink = sink;
  QD_ASSIGN_OR_RETURN(const HttpResponse response, PerformHttp(request));
  if (response.status == 200 || response.status == 206) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(range.url.substr(0, range.url.find('?')), ": HTTP ", response.status));
}

std::string UrlEscape(absl::string_view text) {
  std::string out;
  for (unsigned char c : text) {
    if (absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
      out += static_cast<char>(c);
    } else {
      absl::StrAppendFormat(&out, "%%%02X", c);
    }
  }
  return out;
}

}  // namespace quantd
