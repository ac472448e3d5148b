// Which ids begin and end a text, from the several files that may say so.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

struct SpecialIds {
  std::optional<int32_t> bos;
  std::vector<int32_t> eos;  // Without repetition.
};

// generation_config.json speaks first (it is what generation obeys), then config.json, then the
// token names of tokenizer_config.json, which `token_to_id` resolves. The ids that a later file
// adds for eos come after the earlier ones. Missing files and members are fine.
absl::StatusOr<SpecialIds> ReadSpecialIds(
    const std::string& model_folder,
    const std::function<std::optional<int32_t>(absl::string_view)>& token_to_id);

}  // namespace quantd
