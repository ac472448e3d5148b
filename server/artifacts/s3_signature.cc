// As in "Signature Calculations for the Authorization Header" and "Authenticating Requests: Using
// Query Parameters" of Amazon's S3 API reference.
#include "server/artifacts/s3_signature.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/http.h"
#include "base/sha256.h"

namespace quantd {
namespace {

constexpr char kAlgorithm[] = "AWS4-HMAC-SHA256";

std::string Hmac(absl::string_view key, absl::string_view text) {
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac, &size);
  return std::string(reinterpret_cast<const char*>(mac), size);
}

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y%m%dT%H%M%SZ", time, absl::UTCTimeZone());
}

std::string Scope(absl::string_view region, absl::Time time) {
  return absl::StrCat(TimeText(time).substr(0, 8), "/", region, "/s3/aws4_request");
}

// `headers` are those that are signed, in lower case.
std::string Signature(const S3Keys& keys, absl::string_view region, const S3ToSign& request,
                      const std::map<std::string, std::string>& headers) {
  std::string canonical =
      absl::StrCat(request.method, "\n", request.path, "\n", S3Query(request.query), "\n");
  std::vector<std::string> names;
  for (const auto& [name, value] : headers) {
    absl::StrAppend(&canonical, name, ":", value, "\n");
    names.push_back(name);
  }
  absl::StrAppend(&canonical, "\n", absl::StrJoin(names, ";"), "\n", request.body_sha256);
  const std::string text = absl::StrCat(kAlgorithm, "\n", TimeText(request.time), "\n",
                                        Scope(region, request.time), "\n", Sha256Hex(canonical));
  std::string key =
      Hmac(absl::StrCat("AWS4", keys.secret_key), TimeText(request.time).substr(0, 8));
  for (const absl::string_view step :
       {region, absl::string_view("s3"), absl::string_view("aws4_request")}) {
    key = Hmac(key, step);
  }
  return absl::BytesToHexString(Hmac(key, text));
}

}  // namespace

std::string S3Query(const std::map<std::string, std::string>& query) {
  return absl::StrJoin(query, "&", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, UrlEscape(entry.first), "=", UrlEscape(entry.second));
  });
}

std::vector<std::string> SignS3(const S3Keys& keys, absl::string_view region,
                                const S3ToSign& request) {
  std::map<std::string, std::string> headers = {{"host", std::string(request.host)},
                                                {"x-amz-content-sha256", request.body_sha256},
                                                {"x-amz-date", TimeText(request.time)}};
  if (!keys.session_token.empty()) headers["x-amz-security-token"] = keys.session_token;
  std::vector<std::string> names, lines;
  for (const auto& [name, value] : headers) {
    names.push_back(name);
    if (name != "host") lines.push_back(absl::StrCat(name, ": ", value));
  }
  lines.push_back(absl::StrCat("Authorization: ", kAlgorithm, " Credential=", keys.access_key, "/",
                               Scope(region, request.time),
                               ", SignedHeaders=", absl::StrJoin(names, ";"),
                               ", Signature=", Signature(keys, region, request, headers)));
  return lines;
}

std::string PresignS3(const S3Keys& keys, absl::string_view region, S3ToSign request,
                      absl::Duration valid) {
  request.body_sha256 = "UNSIGNED-PAYLOAD";
  request.query["X-Amz-Algorithm"] = kAlgorithm;
  request.query["X-Amz-Credential"] =
      absl::StrCat(keys.access_key, "/", Scope(region, request.time));
  request.query["X-Amz-Date"] = TimeText(request.time);
  request.query["X-Amz-Expires"] = absl::StrCat(absl::ToInt64Seconds(valid));
  request.query["X-Amz-SignedHeaders"] = "host";
  if (!keys.session_token.empty()) request.query["X-Amz-Security-Token"] = keys.session_token;
  const std::string signature =
      Signature(keys, region, request, {{"host", std::string(request.host)}});
  return absl::StrCat(S3Query(request.query), "&X-Amz-Signature=", signature);
}

}  // namespace quantd
