// One atomic file a part, named by its number, valid only with the fingerprint in it.
#include "workers/engine/evaluation/parts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace quantd::engine {
namespace {

// The part's values, or nothing when there is no file that fits.
std::vector<nlohmann::json> ReadPart(const std::string& path, const std::string& fingerprint,
                                     size_t items) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return {};
  nlohmann::json part = nlohmann::json::parse(*text, nullptr, false);
  if (!part.is_object() || part.value("fingerprint", nlohmann::json()) != fingerprint) return {};
  nlohmann::json& values = part["values"];
  if (!values.is_array() || values.size() != items) return {};
  return std::move(values.get_ref<nlohmann::json::array_t&>());
}

}  // namespace

absl::StatusOr<std::vector<nlohmann::json>> RunParts(
    JobContext& context, const PartsPlan& plan,
    const std::function<absl::StatusOr<std::vector<nlohmann::json>>(int64_t, int64_t)>& compute,
    const std::function<void(int64_t, const std::vector<nlohmann::json>&)>& on_part) {
  QD_RETURN_IF_ERROR(MakeFolders(absl::StrCat(context.work_dir, "/", plan.name)));
  const int64_t parts = (plan.items + plan.items_per_part - 1) / plan.items_per_part;
  std::vector<nlohmann::json> all;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = part * plan.items_per_part;
    const int64_t last = std::min(first + plan.items_per_part, plan.items);
    const std::string name = absl::StrFormat("%s/%06d.json", plan.name, part);
    const std::string path = absl::StrCat(context.work_dir, "/", name);
    std::vector<nlohmann::json> values =
        ReadPart(path, plan.fingerprint, static_cast<size_t>(last - first));
    if (values.empty()) {
      QD_RETURN_IF_ERROR(context.cancel.Check());
      QD_ASSIGN_OR_RETURN(values, compute(first, last));
      const size_t items = values.size();
      nlohmann::json content = {{"fingerprint", plan.fingerprint}};
      content["values"] = std::move(values);
      QD_RETURN_IF_ERROR(WriteFileAtomic(
          path, content.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
      context.events.Checkpoint(static_cast<int>(part + 1), static_cast<int>(parts), {name});
      // What was written is what counts, so that a resumed run sees the same numbers.
      values = ReadPart(path, plan.fingerprint, items);
    }
    std::move(values.begin(), values.end(), std::back_inserter(all));
    if (on_part) on_part(last, all);
  }
  return all;
}

}  // namespace quantd::engine
