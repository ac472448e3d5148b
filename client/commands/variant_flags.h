// Flags that stand for a sweep's variants: methods, families of methods, named experiments, and the
// bits, group sizes and options to try with each method.
#pragma once

#include <string>
#include <vector>

#include "CLI/App.hpp"
#include "absl/status/status.h"
#include "proto/quantd/v1/spec.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

struct VariantFlags {
  bool quick = false;
  std::vector<std::string> experiments, methods, options;
  std::vector<int> bits, group_sizes;
  std::string format;
  // Whether any of them was given.
  bool Given() const;
};
void AddVariantFlags(CLI::App* app, VariantFlags* flags);

// Appends to `variants`. A method that `catalog` does not have may be a family: "bnb" stands for
// "bnb_4bit" and "bnb_8bit", "all" for every method. A family's methods get the bits, group sizes
// and options that they have; a method that can do none of the bits or group sizes asked for is
// left out and named in `left_out`. Anything else unknown is the scheduler's to refuse.
absl::Status ApplyVariants(const VariantFlags& flags, const v1::Catalog& catalog,
                           google::protobuf::RepeatedPtrField<v1::VariantSpec>* variants,
                           std::vector<std::string>* left_out);

}  // namespace quantd
