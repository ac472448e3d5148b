// See device_names.h.
#include "proto/device_names.h"

#include <algorithm>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace quantd {
namespace {

constexpr int kGpusMax = 64;  // Of one host.

}  // namespace

std::optional<int> GpusNeeded(absl::string_view device) {
  if (device.empty() || device == "auto" || device == "cpu") return 0;
  if (device == "cuda" || device == "cuda:all") return 1;
  std::set<int> numbers;
  for (absl::string_view name : absl::StrSplit(device, ',')) {
    int number = 0;
    const bool known = absl::ConsumePrefix(&name, "cuda:") && absl::SimpleAtoi(name, &number) &&
                       number >= 0 && number < kGpusMax;
    if (!known || !numbers.insert(number).second) return std::nullopt;
  }
  return *numbers.rbegin() + 1;
}

}  // namespace quantd
