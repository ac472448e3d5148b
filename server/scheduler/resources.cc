// One reader for each kind of name, so that a malformed one means the same everywhere.
#include "server/scheduler/resources.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/sha256.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "server/scheduler/errors.h"

namespace quantd {
namespace {

constexpr size_t kSegmentMax = 63;
constexpr int32_t kPageSizeDefault = 50;
constexpr int32_t kPageSizeMax = 1000;

bool IsSegment(absl::string_view text) {
  return !text.empty() && text.size() <= kSegmentMax &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
         });
}

std::string FilterDigest(absl::string_view filter) { return Sha256Hex(filter).substr(0, 12); }

}  // namespace

absl::StatusOr<std::string> ParseParent(absl::string_view parent) {
  if (parent.empty()) return "default";
  const std::vector<absl::string_view> parts = absl::StrSplit(parent, '/');
  if (parts.size() == 2 && parts[0] == "tenants" && IsSegment(parts[1])) {
    return std::string(parts[1]);
  }
  return FieldError("parent", absl::StrCat("\"", absl::CHexEscape(parent.substr(0, 100)),
                                           "\" is not of the form tenants/{tenant}, with 1 to 63 "
                                           "lower-case letters, digits and '-'"));
}

absl::StatusOr<std::string> TenantOf(absl::string_view name, absl::string_view collection) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (parts.size() == 4 && parts[0] == "tenants" && IsSegment(parts[1]) && parts[2] == collection &&
      IsSegment(parts[3])) {
    return std::string(parts[1]);
  }
  return absl::NotFoundError(absl::StrCat("\"", absl::CHexEscape(name.substr(0, 200)),
                                          "\" does not exist (names look like tenants/{tenant}/",
                                          collection, "/{id})"));
}

std::string JobName(absl::string_view tenant, absl::string_view id) {
  return absl::StrCat("tenants/", tenant, "/jobs/", id);
}

std::string SweepName(absl::string_view tenant, absl::string_view id) {
  return absl::StrCat("tenants/", tenant, "/sweeps/", id);
}

std::string ResolveJob(absl::string_view tenant, absl::string_view reference) {
  const std::vector<absl::string_view> parts = absl::StrSplit(reference, '/');
  if (parts.size() == 2 && parts[0] == "jobs" && IsSegment(parts[1])) {
    return JobName(tenant, parts[1]);
  }
  const auto owner = TenantOf(reference, "jobs");
  return owner.ok() && *owner == tenant ? std::string(reference) : "";
}

std::string IdFromBits(uint64_t bits) {
  constexpr char kDigits[] = "abcdefghijklmnopqrstuvwxyz234567";
  std::string id(13, 'a');
  for (size_t i = id.size(); i-- > 0; bits >>= 5) id[i] = kDigits[bits & 31];
  return id;  // The first digit holds the upper 4 bits: always a letter.
}

std::string MakePageToken(absl::string_view filter, int64_t key) {
  return absl::WebSafeBase64Escape(absl::StrCat(FilterDigest(filter), ":", key));
}

absl::StatusOr<int64_t> ParsePageToken(absl::string_view token, absl::string_view filter) {
  if (token.empty()) return 0;
  std::string text;
  int64_t key = 0;
  if (!absl::WebSafeBase64Unescape(token, &text) || text.size() < 14 || text[12] != ':' ||
      !absl::SimpleAtoi(text.substr(13), &key) || key <= 0) {
    return FieldError("page_token", "is damaged; pass next_page_token as it was returned");
  }
  if (text.substr(0, 12) != FilterDigest(filter)) {
    return FieldError("page_token",
                      "belongs to another list; keep parent and filters while paging");
  }
  return key;
}

absl::StatusOr<int64_t> PageSize(int32_t asked) {
  if (asked < 0) return FieldError("page_size", absl::StrCat(asked, " is negative"));
  return asked == 0 ? kPageSizeDefault : std::min(asked, kPageSizeMax);
}

namespace {

class References {
 public:
  void Add(absl::string_view field, absl::string_view reference,
           v1::Dependency::Condition condition = v1::Dependency::SUCCEEDED) {
    const bool is_job =
        reference.substr(0, 5) == "jobs/" ||
        (reference.substr(0, 8) == "tenants/" && reference.find("/jobs/") != reference.npos);
    if (!is_job && !IsArtifactReference(reference)) return;
    if (!seen_.insert(std::string(reference)).second) return;
    found_.push_back({absl::StrCat("spec.", field), std::string(reference), condition});
  }
  void AddVariants(absl::string_view field,
                   const google::protobuf::RepeatedPtrField<v1::CompareSpec::Variant>& variants) {
    for (int i = 0; i < variants.size(); ++i) {
      for (int k = 0; k < variants[i].jobs_size(); ++k) {
        Add(absl::StrCat(field, ".variants[", i, "].jobs[", k, "]"), variants[i].jobs(k),
            v1::Dependency::FINISHED);
      }
    }
  }
  std::vector<SpecReference> Take() { return std::move(found_); }

 private:
  absl::flat_hash_set<std::string> seen_;
  std::vector<SpecReference> found_;
};

}  // namespace

std::vector<SpecReference> ReferencesOf(const v1::JobSpec& spec) {
  References references;
  switch (spec.kind_case()) {
    case v1::JobSpec::kQuantize:
      references.Add("quantize.model", spec.quantize().model());
      references.Add("quantize.calibration.source", spec.quantize().calibration().source());
      break;
    case v1::JobSpec::kEvaluate:
      references.Add("evaluate.model", spec.evaluate().model());
      for (int i = 0; i < spec.evaluate().tasks_size(); ++i) {
        references.Add(absl::StrCat("evaluate.tasks[", i, "].data"),
                       spec.evaluate().tasks(i).data());
      }
      break;
    case v1::JobSpec::kBenchmark:
      references.Add("benchmark.model", spec.benchmark().model());
      references.Add("benchmark.baseline", spec.benchmark().baseline());
      break;
    case v1::JobSpec::kVerify:
      references.Add("verify.model", spec.verify().model());
      break;
    case v1::JobSpec::kCompare:
      references.AddVariants("compare", spec.compare().variants());
      break;
    case v1::JobSpec::kReport:
      references.AddVariants("report", spec.report().variants());
      break;
    case v1::JobSpec::KIND_NOT_SET:
      break;
  }
  return references.Take();
}

std::string KindOf(const v1::JobSpec& spec) {
  const auto* field = v1::JobSpec::descriptor()->FindFieldByNumber(spec.kind_case());
  return spec.kind_case() == v1::JobSpec::KIND_NOT_SET ? "" : field->name();
}

void SetKind(const v1::JobSpec& from, v1::JobSpec* to) {
  if (from.kind_case() == v1::JobSpec::KIND_NOT_SET) return;
  const auto* field = v1::JobSpec::descriptor()->FindFieldByNumber(from.kind_case());
  to->GetReflection()->MutableMessage(to, field);
}

absl::StatusOr<uint32_t> EventKinds(const google::protobuf::RepeatedPtrField<std::string>& kinds) {
  if (kinds.empty()) return ~uint32_t{0};
  const auto* oneof = v1::JobEvent::descriptor()->FindOneofByName("event");
  uint32_t mask = 1u << v1::JobEvent::kState;
  for (int i = 0; i < kinds.size(); ++i) {
    const auto* field = v1::JobEvent::descriptor()->FindFieldByName(kinds[i]);
    if (field == nullptr || field->containing_oneof() != oneof) {
      std::vector<std::string> names;
      for (int k = 0; k < oneof->field_count(); ++k) names.push_back(oneof->field(k)->name());
      return FieldError(
          absl::StrCat("kinds[", i, "]"),
          absl::StrCat("\"", absl::CHexEscape(kinds[i].substr(0, 50)),
                       "\" is no kind of event; there are ", absl::StrJoin(names, ", ")));
    }
    mask |= 1u << field->number();
  }
  return mask;
}

std::string DeterministicBytes(const google::protobuf::MessageLite& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return bytes;
}

std::string MessageDigest(const google::protobuf::MessageLite& message) {
  return Sha256Hex(DeterministicBytes(message));
}

}  // namespace quantd
