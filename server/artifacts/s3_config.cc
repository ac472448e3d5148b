// Parameters are rows of a table; what is left open is filled in afterwards.
#include "server/artifacts/s3_config.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

constexpr int64_t kKeysFileBytesMax = 1 << 20;
constexpr absl::string_view kScheme = "s3://";

bool IsPlain(absl::string_view text, absl::string_view also) {
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return absl::ascii_isalnum(c) || absl::StrContains(also, c); });
}

bool IsBucket(absl::string_view name) {
  return name.size() >= 3 && name.size() <= 63 && IsPlain(name, ".-_") &&
         absl::ascii_isalnum(name.front()) && absl::ascii_isalnum(name.back());
}

bool IsEndpoint(absl::string_view url) {
  if (!absl::ConsumePrefix(&url, "https://") && !absl::ConsumePrefix(&url, "http://")) return false;
  return !url.empty() && IsPlain(url, ".-_:[]");
}

// Puts a parameter's value where it belongs; false when it is no such value.
bool SetEndpoint(absl::string_view value, S3Config* config) {
  config->endpoint = std::string(absl::StripSuffix(value, "/"));
  return IsEndpoint(config->endpoint);
}
bool SetRegion(absl::string_view value, S3Config* config) {
  config->region = std::string(value);
  return !value.empty() && IsPlain(value, "-_");
}
bool SetPathStyle(absl::string_view value, S3Config* config) {
  config->path_style = value == "on";
  return value == "on" || value == "off";
}
bool SetKeysFile(absl::string_view value, S3Config* config) {
  config->keys_file = std::string(value);
  return !value.empty();
}

struct Parameter {
  absl::string_view name;
  bool (*set)(absl::string_view value, S3Config* config);
  const char* form;
};
constexpr Parameter kParameters[] = {
    {"endpoint", SetEndpoint, "http://host:port or https://host:port without a path"},
    {"region", SetRegion, "a region's name, as eu-west-1"},
    {"path-style", SetPathStyle, "on or off"},
    {"credentials", SetKeysFile, "a file's path"},
};

// Those that were given.
absl::StatusOr<std::vector<absl::string_view>> ReadParameters(absl::string_view text,
                                                              S3Config* config) {
  std::vector<absl::string_view> given;
  for (const absl::string_view word : absl::StrSplit(text, '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> entry =
        absl::StrSplit(word, absl::MaxSplits('=', 1));
    const auto* parameter =
        std::find_if(std::begin(kParameters), std::end(kParameters),
                     [&](const Parameter& row) { return row.name == entry.first; });
    if (parameter == std::end(kParameters)) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no parameter \"", entry.first,
                       "\"; endpoint, region, path-style and credentials are known (keys belong "
                       "into the environment or a file)"));
    }
    if (!parameter->set(entry.second, config)) {
      return absl::InvalidArgumentError(
          absl::StrCat(entry.first, "=", entry.second, ": has to be ", parameter->form));
    }
    given.push_back(parameter->name);
  }
  return given;
}

std::string FirstOf(const S3Environment& environment,
                    std::initializer_list<const char*> variables) {
  for (const char* variable : variables) {
    std::string value = environment(variable);
    if (!value.empty()) return value;
  }
  return "";
}

absl::Status FillIn(const S3Environment& environment, const std::vector<absl::string_view>& given,
                    S3Config* config) {
  const auto left_out = [&](absl::string_view name) {
    return std::find(given.begin(), given.end(), name) == given.end();
  };
  if (left_out("region")) {
    const std::string region = FirstOf(environment, {"AWS_REGION", "AWS_DEFAULT_REGION"});
    if (!region.empty() && !SetRegion(region, config)) {
      return absl::InvalidArgumentError(
          absl::StrCat("AWS_REGION or AWS_DEFAULT_REGION: \"", region, "\" is no region's name"));
    }
  }
  if (left_out("endpoint")) {
    const std::string endpoint = FirstOf(environment, {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"});
    if (!endpoint.empty() && !SetEndpoint(endpoint, config)) {
      return absl::InvalidArgumentError(absl::StrCat("AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL: \"",
                                                     endpoint, "\" is not ", kParameters[0].form));
    }
  }
  const bool amazon = config->endpoint.empty();
  if (amazon) config->endpoint = absl::StrCat("https://s3.", config->region, ".amazonaws.com");
  // Amazon wants the bucket in the host's name, but its certificate covers no name with dots.
  // Other servers often have an address and no names below it.
  if (left_out("path-style")) {
    config->path_style = !amazon || absl::StrContains(config->bucket, '.');
  }
  config->authorities = environment("AWS_CA_BUNDLE");
  if (!config->authorities.empty() && !FileExists(config->authorities)) {
    return absl::InvalidArgumentError(
        absl::StrCat("AWS_CA_BUNDLE: there is no file ", config->authorities));
  }
  return absl::OkStatus();
}

absl::Status FindKeys(const S3Environment& environment, S3Config* config) {
  if (const std::string profile = environment("AWS_PROFILE"); !profile.empty()) {
    config->profile = profile;
  }
  if (config->keys_file.empty()) {
    config->keys = {.access_key = environment("AWS_ACCESS_KEY_ID"),
                    .secret_key = environment("AWS_SECRET_ACCESS_KEY"),
                    .session_token = environment("AWS_SESSION_TOKEN")};
    if (!config->keys.access_key.empty() && !config->keys.secret_key.empty()) {
      return absl::OkStatus();
    }
    config->keys_file = environment("AWS_SHARED_CREDENTIALS_FILE");
  }
  if (config->keys_file.empty()) {
    return absl::InvalidArgumentError(
        "no keys for the bucket: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file "
        "with credentials=FILE or AWS_SHARED_CREDENTIALS_FILE");
  }
  QD_ASSIGN_OR_RETURN(config->keys, ReadS3Keys(config->keys_file, config->profile));
  return absl::OkStatus();
}

absl::StatusOr<S3Config> Parse(absl::string_view url, const S3Environment& environment) {
  S3Config config;
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(absl::StripPrefix(url, kScheme), absl::MaxSplits('?', 1));
  const std::pair<absl::string_view, absl::string_view> path =
      absl::StrSplit(parts.first, absl::MaxSplits('/', 1));
  config.bucket = std::string(path.first);
  if (!IsBucket(config.bucket)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", config.bucket, "\" is no bucket's name: 3 to 63 of a-z 0-9 . -"));
  }
  const absl::string_view prefix = absl::StripSuffix(path.second, "/");
  if (!IsPlain(prefix, "._-/") || absl::StrContains(prefix, "//") ||
      absl::StartsWith(prefix, "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prefix \"", prefix, "\" has more than A-Z a-z 0-9 . _ - and single /"));
  }
  if (!prefix.empty()) config.prefix = absl::StrCat(prefix, "/");
  QD_ASSIGN_OR_RETURN(const std::vector<absl::string_view> given,
                      ReadParameters(parts.second, &config));
  QD_RETURN_IF_ERROR(FillIn(environment, given, &config));
  QD_RETURN_IF_ERROR(FindKeys(environment, &config));
  return config;
}

}  // namespace

bool IsS3Url(absl::string_view text) { return absl::StartsWith(text, kScheme); }

std::string ProcessEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

absl::StatusOr<S3Config> ParseS3Url(absl::string_view url, const S3Environment& environment) {
  if (!IsS3Url(url)) {
    return absl::InvalidArgumentError(absl::StrCat(
        url, ": has to begin as s3://bucket/prefix, or as s3://bucket?endpoint=https://host:9000"));
  }
  QD_ASSIGN_OR_RETURN(S3Config config, Parse(url, environment), url.substr(0, url.find('?')));
  return config;
}

absl::StatusOr<S3Keys> ReadS3Keys(const std::string& path, absl::string_view profile) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kKeysFileBytesMax),
                      "reading the bucket's keys");
  std::map<std::string, std::string> entries;
  bool mine = false;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line[0] == '[') {
      mine = absl::StripSuffix(line.substr(1), "]") == profile;
      continue;
    }
    const std::pair<absl::string_view, absl::string_view> entry =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    if (mine) {
      entries[absl::AsciiStrToLower(absl::StripAsciiWhitespace(entry.first))] =
          std::string(absl::StripAsciiWhitespace(entry.second));
    }
  }
  S3Keys keys{.access_key = entries["aws_access_key_id"],
              .secret_key = entries["aws_secret_access_key"],
              .session_token = entries["aws_session_token"]};
  if (!keys.access_key.empty() && !keys.secret_key.empty()) return keys;
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": has no aws_access_key_id and aws_secret_access_key below [", profile, "]"));
}

}  // namespace quantd
