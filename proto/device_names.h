// The devices that a spec's runtime.device may name: "auto" (also empty), "cpu", "cuda", "cuda:N",
// several GPUs of one host as "cuda:0,cuda:1", or all of them as "cuda:all".
#pragma once

#include <optional>

#include "absl/strings/string_view.h"

namespace quantd {

// How many GPUs a worker must have for it: 0 where it can do without, N + 1 for GPU N. Nothing: it
// is no such name, or names a GPU twice.
std::optional<int> GpusNeeded(absl::string_view device);

}  // namespace quantd
