// A map of maps of numbers; the keys are a table.
#include "server/tenants_file.h"

#include <yaml-cpp/yaml.h>

#include <functional>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "proto/names.h"

namespace quantd {
namespace {

constexpr int64_t kFileBytesMax = 4 << 20;
constexpr char kOthers[] = "*";

struct Key {
  const char* name;
  double least;
  double most;
  bool whole;
  void (*set)(TenantPolicy* policy, double value);
};
constexpr double kJobsMost = 1e9;
const Key kKeys[] = {
    {"weight", 1, 1000, true,
     [](TenantPolicy* policy, double value) { policy->weight = static_cast<int64_t>(value); }},
    {"queued-max", 0, kJobsMost, true,
     [](TenantPolicy* policy, double value) { policy->queued_max = static_cast<int64_t>(value); }},
    {"running-max", 0, kJobsMost, true,
     [](TenantPolicy* policy, double value) { policy->running_max = static_cast<int64_t>(value); }},
    {"gpu-hours-per-day", 0, 1e6, false,
     [](TenantPolicy* policy, double value) { policy->gpu_hours_per_day = value; }},
    {"artifact-gib-max", 0, 1e9, false,
     [](TenantPolicy* policy, double value) {
       policy->artifact_bytes_max = static_cast<int64_t>(value * (int64_t{1} << 30));
     }},
};

const Key* FindKey(const std::string& name) {
  for (const Key& key : kKeys) {
    if (name == key.name) return &key;
  }
  return nullptr;
}

absl::Status At(const std::string& path, const YAML::Node& node, const std::string& words) {
  return absl::InvalidArgumentError(absl::StrCat(path, ":", node.Mark().line + 1, ": ", words));
}

absl::Status ReadPolicy(const std::string& path, const YAML::Node& node, TenantPolicy* policy) {
  if (!node.IsMap()) return At(path, node, "a tenant needs `key: number` lines");
  for (const auto& entry : node) {
    const std::string name = entry.first.as<std::string>();
    const Key* key = FindKey(name);
    if (key == nullptr) {
      return At(path, entry.first,
                absl::StrCat("\"", name, "\" is none of ",
                             absl::StrJoin(kKeys, ", ", [](std::string* out, const Key& known) {
                               absl::StrAppend(out, known.name);
                             })));
    }
    double value = 0;
    if (!YAML::convert<double>::decode(entry.second, value) || !(value >= key->least) ||
        value > key->most ||
        (key->whole && value != static_cast<double>(static_cast<int64_t>(value)))) {
      return At(path, entry.second,
                absl::StrCat(name, " has to be a ", key->whole ? "whole " : "", "number from ",
                             key->least, " to ", key->most));
    }
    key->set(policy, value);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TenantPolicies> ReadTenants(const std::string& path) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kFileBytesMax));
  TenantPolicies policies;
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsNull() && !root.IsMap()) {
      return At(path, root, "has to name tenants, each with `key: number` lines");
    }
    if (const YAML::Node others = root[kOthers]; root.IsMap() && others) {
      QD_RETURN_IF_ERROR(ReadPolicy(path, others, &policies.others));
    }
    for (const auto& entry : root) {
      const std::string tenant = entry.first.as<std::string>();
      if (tenant == kOthers) continue;
      if (!IsResourceId(tenant)) {
        return At(path, entry.first,
                  absl::StrCat("\"", tenant, "\" is no tenant's name (1 to 63 of a-z, 0-9, -)"));
      }
      TenantPolicy& policy = policies.named[tenant] = policies.others;
      QD_RETURN_IF_ERROR(ReadPolicy(path, entry.second, &policy));
    }
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", error.what()));
  }
  return policies;
}

}  // namespace quantd
