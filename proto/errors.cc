// Details are added in the order of their use to the caller until the budget is spent; lists are
// shortened rather than dropped.
#include "proto/errors.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/utf8.h"
#include "proto/google/rpc/error_details.pb.h"

namespace quantd {
namespace {

constexpr char kTypePrefix[] = "type.googleapis.com/";
// Violations that the message itself spells out; the details have the others.
constexpr size_t kViolationsInMessage = 5;
constexpr int kViolationsInDetail = 64;
constexpr size_t kDescriptionBytesMax = 400;

std::string TypeUrl(const google::protobuf::Message& message) {
  return absl::StrCat(kTypePrefix, message.GetDescriptor()->full_name());
}

template <typename T>
std::optional<T> DetailOf(const absl::Status& status) {
  T detail;
  const auto payload = status.GetPayload(TypeUrl(detail));
  if (!payload.has_value() || !detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return detail;
}

// At most `bytes_max` bytes of valid UTF-8, cut between characters and marked with "...".
std::string Shorten(absl::string_view text, size_t bytes_max) {
  std::string valid = ReplaceInvalidUtf8(text);
  if (valid.size() <= bytes_max) return valid;
  size_t end = bytes_max - 3;
  while (end > 0 && (static_cast<unsigned char>(valid[end]) & 0xc0) == 0x80) --end;
  valid.resize(end);
  return valid + "...";
}

// A list's elements are dropped from the end until the detail fits.
template <typename List>
bool DropLast(List* list) {
  if (list->size() <= 1) return false;
  list->RemoveLast();
  return true;
}

// A smaller form of the detail; false when there is none.
bool Shrink(absl::string_view type, google::protobuf::Any* any) {
  bool shrunk = false;
  const auto edit = [&](auto message, auto change) {
    if (!message.ParseFromString(any->value())) return;
    shrunk = change(message);
    if (shrunk) any->set_value(message.SerializeAsString());
  };
  if (type == "google.rpc.BadRequest") {
    edit(google::rpc::BadRequest(), [](auto& m) { return DropLast(m.mutable_field_violations()); });
  } else if (type == "google.rpc.PreconditionFailure") {
    edit(google::rpc::PreconditionFailure(),
         [](auto& m) { return DropLast(m.mutable_violations()); });
  } else if (type == "google.rpc.ErrorInfo") {
    edit(google::rpc::ErrorInfo(), [](auto& m) {
      const bool had = !m.metadata().empty();
      m.clear_metadata();
      return had;
    });
  }
  return shrunk;
}

// Lower comes first.
int Rank(absl::string_view type) {
  constexpr absl::string_view kOrder[] = {
      "google.rpc.ErrorInfo",    "google.rpc.RetryInfo",
      "google.rpc.BadRequest",   "google.rpc.PreconditionFailure",
      "google.rpc.QuotaFailure", "google.rpc.ResourceInfo",
      "google.rpc.Help"};
  return static_cast<int>(std::find(std::begin(kOrder), std::end(kOrder), type) -
                          std::begin(kOrder));
}

}  // namespace

absl::Status WithDetail(absl::Status status, const google::protobuf::Message& detail) {
  status.SetPayload(TypeUrl(detail), absl::Cord(detail.SerializeAsString()));
  return status;
}

absl::Status WithReason(absl::Status status, absl::string_view reason,
                        std::initializer_list<std::pair<absl::string_view, std::string>> metadata) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(kErrorDomain);
  for (const auto& [key, value] : metadata) (*info.mutable_metadata())[std::string(key)] = value;
  return WithDetail(std::move(status), info);
}

std::string ReasonOf(const absl::Status& status) {
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  return info.has_value() ? info->reason() : "";
}

std::string ReasonMetadata(const absl::Status& status, absl::string_view key) {
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  if (!info.has_value()) return "";
  const auto found = info->metadata().find(std::string(key));
  return found == info->metadata().end() ? "" : found->second;
}

absl::Status FieldError(absl::string_view field, absl::string_view description) {
  return FieldErrors({{std::string(field), std::string(description)}});
}

absl::Status FieldErrors(const std::vector<FieldViolation>& violations) {
  if (violations.empty()) return absl::OkStatus();
  google::rpc::BadRequest request;
  std::vector<std::string> words;
  for (const FieldViolation& violation : violations) {
    // The detail is cut to its limit one by one; nobody reads thousands.
    if (request.field_violations_size() == kViolationsInDetail) break;
    auto* added = request.add_field_violations();
    added->set_field(Shorten(violation.field, kDescriptionBytesMax));
    added->set_description(Shorten(violation.description, kDescriptionBytesMax));
    if (words.size() < kViolationsInMessage) {
      words.push_back(absl::StrCat(added->field(), ": ", added->description()));
    }
  }
  std::string message = absl::StrJoin(words, "; ");
  if (violations.size() > words.size()) {
    absl::StrAppend(&message, "; and ", violations.size() - words.size(), " more");
  }
  return WithDetail(absl::InvalidArgumentError(message), request);
}

std::vector<FieldViolation> FieldViolationsOf(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  const auto request = DetailOf<google::rpc::BadRequest>(status);
  if (!request.has_value()) return violations;
  for (const auto& violation : request->field_violations()) {
    violations.push_back({violation.field(), violation.description()});
  }
  return violations;
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo info;
  const int64_t nanoseconds = absl::ToInt64Nanoseconds(std::max(delay, absl::ZeroDuration()));
  info.mutable_retry_delay()->set_seconds(nanoseconds / 1'000'000'000);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
  return WithDetail(std::move(status), info);
}

std::optional<absl::Duration> RetryAfterOf(const absl::Status& status) {
  const auto info = DetailOf<google::rpc::RetryInfo>(status);
  if (!info.has_value()) return std::nullopt;
  return absl::Seconds(info->retry_delay().seconds()) +
         absl::Nanoseconds(info->retry_delay().nanos());
}

absl::Status WithPrecondition(absl::Status status, const Precondition& violation) {
  auto failure = DetailOf<google::rpc::PreconditionFailure>(status).value_or(
      google::rpc::PreconditionFailure());
  auto* added = failure.add_violations();
  added->set_type(violation.type);
  added->set_subject(violation.subject);
  added->set_description(violation.description);
  return WithDetail(std::move(status), failure);
}

absl::Status WithResource(absl::Status status, absl::string_view type, absl::string_view name) {
  google::rpc::ResourceInfo info;
  info.set_resource_type(std::string(type));
  info.set_resource_name(Shorten(name, kDescriptionBytesMax));
  return WithDetail(std::move(status), info);
}

absl::Status WithHelp(absl::Status status, absl::string_view description, absl::string_view url) {
  google::rpc::Help help;
  auto* link = help.add_links();
  link->set_description(std::string(description));
  link->set_url(std::string(url));
  return WithDetail(std::move(status), help);
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = Shorten(status.message(), kErrorMessageBytesMax);

  std::vector<std::pair<std::string, std::string>> details;  // Type name, bytes.
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    details.emplace_back(url.substr(url.rfind('/') + 1), std::string(payload));
  });
  if (details.empty()) return grpc::Status(code, message);
  std::sort(details.begin(), details.end(), [](const auto& a, const auto& b) {
    return std::make_pair(Rank(a.first), a.first) < std::make_pair(Rank(b.first), b.first);
  });

  google::rpc::Status wire;
  wire.set_code(static_cast<int>(status.code()));
  wire.set_message(message);
  for (const auto& [type, bytes] : details) {
    google::protobuf::Any* any = wire.add_details();
    any->set_type_url(absl::StrCat(kTypePrefix, type));
    any->set_value(bytes);
    while (wire.ByteSizeLong() > kErrorDetailsBytesMax) {
      if (Shrink(type, any)) continue;
      wire.mutable_details()->RemoveLast();
      break;
    }
  }
  return grpc::Status(code, message, wire.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int code = status.error_code();
  absl::Status result(
      code >= 1 && code <= 16 ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
      status.error_message());
  google::rpc::Status wire;
  if (status.error_details().empty() || !wire.ParseFromString(status.error_details()))
    return result;
  for (const google::protobuf::Any& any : wire.details()) {
    result.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return result;
}

}  // namespace quantd
