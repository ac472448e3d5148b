// /proc and sorting.
#include "server/load/measure.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <ostream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "proto/channel.h"

namespace quantd::load {

Usage UsageOf(const Target& target) {
  Usage usage;
  const std::string process = absl::StrCat("/proc/", target.pid);
  std::ifstream status(process + "/status");
  for (std::string line; std::getline(status, line);) {
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (words.size() < 2) continue;
    int64_t number = 0;
    if (!absl::SimpleAtoi(words[1], &number)) continue;
    if (words[0] == "VmRSS:") usage.resident_bytes = number << 10;
    if (words[0] == "Threads:") usage.threads = number;
  }
  std::error_code error;
  for (std::filesystem::directory_iterator at(process + "/fd", error), end; !error && at != end;
       at.increment(error)) {
    ++usage.files;
  }
  return usage;
}

std::string Words(const Usage& usage) {
  return absl::StrCat(FormatBytes(usage.resident_bytes), " resident, ", usage.threads, " threads, ",
                      usage.files, " open files");
}

std::shared_ptr<grpc::Channel> Connect(const Target& target) {
  grpc::ChannelArguments arguments = ClientChannelArguments();
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target.address, grpc::InsecureChannelCredentials(), arguments);
}

void Quantiles(const Target& target, std::vector<double> milliseconds, const std::string& what) {
  if (milliseconds.empty()) return;
  std::sort(milliseconds.begin(), milliseconds.end());
  const auto at = [&](double q) {
    return milliseconds[static_cast<size_t>(q * static_cast<double>(milliseconds.size() - 1))];
  };
  target.out << what << ": p50 " << at(.5) << " ms, p99 " << at(.99) << " ms, max "
             << milliseconds.back() << " ms\n";
}

}  // namespace quantd::load
