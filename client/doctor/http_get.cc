// libcurl's easy interface; redirects are answers, so that a token stays with its host.
#include "client/doctor/http_get.h"

#include <curl/curl.h>

#include <memory>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr long kSeconds = 10;
constexpr size_t kBodyBytesMax = size_t{4} << 20;

size_t Append(char* data, size_t size, size_t count, void* body) {
  auto* text = static_cast<std::string*>(body);
  if (text->size() + size * count > kBodyBytesMax) return 0;
  text->append(data, size * count);
  return size * count;
}

}  // namespace

absl::StatusOr<HttpAnswer> HttpGet(const std::string& url, const std::string& token) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (initialised != CURLE_OK) return absl::InternalError("libcurl does not start");
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), &curl_easy_cleanup);
  if (curl == nullptr) return absl::InternalError("libcurl does not start");
  HttpAnswer answer;
  char reason[CURL_ERROR_SIZE] = "";
  curl_slist* headers = nullptr;
  if (!token.empty()) {
    headers = curl_slist_append(nullptr, absl::StrCat("Authorization: Bearer ", token).c_str());
  }
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> owned(headers, &curl_slist_free_all);
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT, kSeconds);
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_USERAGENT, "quantctl/" QUANTD_VERSION);
  curl_easy_setopt(curl.get(), CURLOPT_ERRORBUFFER, reason);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, &Append);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &answer.body);
  // Where OpenSSL's own place for certificates is not this system's.
  for (const char* name : {"CURL_CA_BUNDLE", "SSL_CERT_FILE"}) {
    const char* file = std::getenv(name);
    if (file == nullptr || *file == '\0') continue;
    curl_easy_setopt(curl.get(), CURLOPT_CAINFO, file);
    break;
  }
  const CURLcode code = curl_easy_perform(curl.get());
  if (code != CURLE_OK) {
    return absl::UnavailableError(*reason != '\0' ? reason : curl_easy_strerror(code));
  }
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &answer.status);
  return answer;
}

}  // namespace quantd
