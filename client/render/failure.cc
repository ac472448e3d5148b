// One row a class.
#include "client/render/failure.h"

#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/file.h"

namespace quantd {
namespace {

struct Meaning {
  v1::ErrorClass error_class;
  const char* words;
};
constexpr Meaning kMeanings[] = {
    {v1::ERROR_CLASS_INVALID_SPEC, "the request itself cannot be done; trying again will not help"},
    {v1::ERROR_CLASS_BAD_INPUT,
     "the model or a data file is damaged, missing or of an unknown kind; every machine would "
     "fail"},
    {v1::ERROR_CLASS_INPUT_UNAVAILABLE,
     "a file could not be fetched for now; the model and the method may be fine"},
    {v1::ERROR_CLASS_OUT_OF_MEMORY,
     "the machine is too small for this model with this method, also after every fallback; the "
     "method itself may be fine"},
    {v1::ERROR_CLASS_DISK_FULL,
     "the machine's disk was full; the model and the method may be fine"},
    {v1::ERROR_CLASS_ENGINE_CRASH,
     "the engine died without a word; a mistake of ours, or memory taken by others"},
    {v1::ERROR_CLASS_DEVICE_FAULT, "the accelerator failed; another machine may do it"},
    {v1::ERROR_CLASS_WORKER_LOST, "the machine went away every time; nothing is said of the model"},
    {v1::ERROR_CLASS_QUEUE_TIMEOUT, "no machine had time before limits.queue_time ran out"},
    {v1::ERROR_CLASS_RUN_TIMEOUT, "it works, but takes longer than limits.run_time here"},
    {v1::ERROR_CLASS_NO_PROGRESS, "it stood still for longer than limits.no_progress_time"},
    {v1::ERROR_CLASS_VERIFICATION_FAILED,
     "the files do not hold what was computed; do not use them"},
    {v1::ERROR_CLASS_INTERNAL, "a mistake of quantd's own"},
};

std::string DeviceText(const v1::Device& device) {
  const std::string name = OneLine(device.name().empty() ? device.type() : device.name());
  return device.memory_bytes() == 0
             ? name
             : absl::StrCat(name, " (", FormatBytes(device.memory_bytes()), ")");
}

}  // namespace

std::string ErrorClassWord(v1::ErrorClass error_class) {
  constexpr size_t kPrefixBytes = sizeof("ERROR_CLASS_") - 1;
  const std::string name = v1::ErrorClass_Name(error_class);
  if (name.size() <= kPrefixBytes || error_class == v1::ERROR_CLASS_UNSPECIFIED) return "error";
  return absl::StrReplaceAll(absl::AsciiStrToLower(name.substr(kPrefixBytes)), {{"_", " "}});
}

std::string ErrorClassMeaning(v1::ErrorClass error_class) {
  for (const Meaning& meaning : kMeanings) {
    if (meaning.error_class == error_class) return meaning.words;
  }
  return "";
}

std::vector<std::string> FailureLines(const v1::Failure& failure, const Style& style) {
  std::vector<std::string> lines;
  std::string head = absl::StrCat("failed (", ErrorClassWord(failure.error_class()));
  if (failure.attempt() > 0) absl::StrAppend(&head, ", attempt ", failure.attempt());
  lines.push_back(style.Bad(absl::StrCat(head, "): ", OneLine(failure.message()))));
  if (!failure.remedy().empty()) {
    lines.push_back(absl::StrCat("  what to do: ", OneLine(failure.remedy())));
  }
  const std::map<std::string, std::string> details(failure.details().begin(),
                                                   failure.details().end());
  for (const auto& [key, value] : details) {
    for (const absl::string_view line : absl::StrSplit(value, '\n', absl::SkipWhitespace())) {
      lines.push_back(style.Dim(absl::StrCat("  ", OneLine(key), ": ", OneLine(line))));
    }
  }
  return lines;
}

std::string MachineText(const v1::Worker& worker) {
  std::string text = OneLine(worker.name().substr(worker.name().rfind('/') + 1));
  std::string separator = ": ";
  const auto add = [&](const std::string& part) {
    absl::StrAppend(&text, separator, part);
    separator = ", ";
  };
  for (const v1::Device& device : worker.catalog().devices()) add(DeviceText(device));
  if (worker.host_memory_bytes() > 0) {
    add(absl::StrCat(FormatBytes(worker.host_memory_bytes()), " memory"));
  }
  if (worker.disk_free_bytes() > 0) {
    add(absl::StrCat(FormatBytes(worker.disk_free_bytes()), " disk free"));
  }
  return text;
}

std::vector<std::string> AccountLines(const FailureAccount& account, const Style& style) {
  std::vector<std::string> lines = FailureLines(account.failure, style);
  lines[0] = absl::StrCat(OneLine(account.title), ": ", lines[0]);
  std::vector<std::string> more;
  const std::string meaning = ErrorClassMeaning(account.failure.error_class());
  if (!meaning.empty()) more.push_back(absl::StrCat("  what it means: ", meaning));
  if (!account.machine.empty()) more.push_back(absl::StrCat("  machine: ", account.machine));
  if (account.failure.attempt() > 1) {
    more.push_back(absl::StrCat("  tried: ", account.failure.attempt(), " attempts"));
  }
  for (const std::string& tried : account.tried) {
    more.push_back(absl::StrCat("  tried: ", OneLine(tried)));
  }
  lines.insert(lines.begin() + 1, more.begin(), more.end());
  return lines;
}

}  // namespace quantd
