// Families are resolved by what the workers announce, so that a new method joins its family by
// itself.
#include "client/commands/variant_flags.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/spec_flags.h"
#include "client/experiments.h"

namespace quantd {
namespace {

constexpr char kAllMethods[] = "all";

const v1::OptionInfo* FindOption(const v1::MethodInfo& method, const std::string& name) {
  for (const v1::OptionInfo& option : method.options()) {
    if (option.name() == name) return &option;
  }
  return nullptr;
}

bool Allows(const v1::OptionInfo& option, int value) {
  if (option.allowed().empty()) return true;
  return std::any_of(option.allowed().begin(), option.allowed().end(),
                     [&](const auto& allowed) { return allowed.number_value() == value; });
}

// One element as a number, several as a list: one variant each.
void SetNumbers(const std::string& name, const std::vector<int>& values,
                google::protobuf::Struct* options) {
  if (values.size() == 1) SetNumber(name, values[0], options);
  if (values.size() < 2) return;
  auto* list = (*options->mutable_fields())[name].mutable_list_value();
  for (const int value : values) list->add_values()->set_number_value(value);
}

// The numbers that a family's method can do; false: it has the option and can do none of them.
bool SetPossible(const v1::MethodInfo& method, const std::string& name,
                 const std::vector<int>& values, google::protobuf::Struct* options) {
  const v1::OptionInfo* option = FindOption(method, name);
  if (option == nullptr || values.empty()) return true;
  std::vector<int> possible;
  for (const int value : values) {
    if (Allows(*option, value)) possible.push_back(value);
  }
  SetNumbers(name, possible, options);
  return !possible.empty();
}

absl::StatusOr<bool> FillMember(const VariantFlags& flags, const v1::MethodInfo& method,
                                v1::VariantSpec* variant) {
  variant->set_method(method.name());
  if (std::count(method.formats().begin(), method.formats().end(), flags.format) > 0) {
    variant->set_format(flags.format);
  }
  for (const std::string& option : flags.options) {
    if (FindOption(method, option.substr(0, option.find('='))) == nullptr) continue;
    QD_RETURN_IF_ERROR(ApplyOption(option, variant->mutable_options()));
  }
  return SetPossible(method, "bits", flags.bits, variant->mutable_options()) &&
         SetPossible(method, "group_size", flags.group_sizes, variant->mutable_options());
}

absl::Status AddMethod(const VariantFlags& flags, const std::string& name,
                       v1::VariantSpec* variant) {
  variant->set_method(name);
  variant->set_format(flags.format);
  SetNumbers("bits", flags.bits, variant->mutable_options());
  SetNumbers("group_size", flags.group_sizes, variant->mutable_options());
  for (const std::string& option : flags.options) {
    QD_RETURN_IF_ERROR(ApplyOption(option, variant->mutable_options()));
  }
  return absl::OkStatus();
}

}  // namespace

bool VariantFlags::Given() const {
  return quick || !experiments.empty() || !methods.empty() || !options.empty() || !bits.empty() ||
         !group_sizes.empty() || !format.empty();
}

void AddVariantFlags(CLI::App* app, VariantFlags* flags) {
  app->add_flag("--quick", flags->quick, "16 bits, 8 bits and 4 bits, without calibration");
  app->add_option("--experiment", flags->experiments,
                  "Named recipe (quantctl methods --experiments); may be repeated")
      ->type_name("NAME")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--method", flags->methods, "Method, family (bnb) or all; may be repeated")
      ->type_name("NAME")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--bits", flags->bits, "As 8,4,3: one variant each")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--group-size", flags->group_sizes, "As 128,64: one variant each")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--option", flags->options, "Option of every method; a list makes variants")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  app->add_option("--format", flags->format, "Output format");
}

absl::Status ApplyVariants(const VariantFlags& flags, const v1::Catalog& catalog,
                           google::protobuf::RepeatedPtrField<v1::VariantSpec>* variants,
                           std::vector<std::string>* left_out) {
  std::vector<std::string> experiments = flags.experiments;
  if (flags.quick) {
    for (const absl::string_view name : QuickExperiments()) experiments.emplace_back(name);
  }
  for (const std::string& name : experiments) {
    QD_ASSIGN_OR_RETURN(*variants->Add(), ExperimentVariant(name), "--experiment");
  }
  for (const std::string& name : flags.methods) {
    std::vector<const v1::MethodInfo*> family;
    bool exact = false;
    for (const v1::MethodInfo& method : catalog.methods()) {
      exact = exact || method.name() == name;
      if (name == kAllMethods || absl::StartsWith(method.name(), absl::StrCat(name, "_"))) {
        family.push_back(&method);
      }
    }
    if (exact || family.empty()) {
      QD_RETURN_IF_ERROR(AddMethod(flags, name, variants->Add()));
      continue;
    }
    for (const v1::MethodInfo* method : family) {
      v1::VariantSpec variant;
      QD_ASSIGN_OR_RETURN(const bool possible, FillMember(flags, *method, &variant));
      if (possible) {
        *variants->Add() = std::move(variant);
      } else {
        left_out->push_back(method->name());
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace quantd
