// quantd_load READY_FILE PART...: measures a running scheduler over its sockets and prints figures.
// Start the scheduler on a fresh --data folder, for its queue is filled; measure.sh does that, on
// SQLite and on PostgreSQL, and measures its restart, too.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "server/acceptor.h"
#include "server/load/measure.h"

namespace {

// The value of "key" in the ready file: a string or a number.
std::string Value(const std::string& json, const std::string& key) {
  const size_t at = json.find(absl::StrCat("\"", key, "\": "));
  if (at == std::string::npos) return "";
  std::string rest = json.substr(at + key.size() + 4);
  if (!rest.empty() && rest[0] == '"') return rest.substr(1, rest.find('"', 1) - 1);
  return rest.substr(0, rest.find_first_of(",}"));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures a running scheduler", "quantd_load");
  std::string ready_file;
  std::vector<std::string> parts = {"queue", "watchers"};
  int jobs = 10'000, watchers = 200, idle = 10'000, streams = 1;
  int64_t mebibytes = 1024;
  app.add_option("READY_FILE", ready_file, "As the scheduler writes it")->required();
  app.add_option("PARTS", parts,
                 "queue: submits, lists, leases; watchers: of one of these jobs, so queue comes "
                 "before; idle: connections beside them; transfers: blobs")
      ->check(CLI::IsMember({"queue", "watchers", "idle", "transfers"}));
  app.add_option("--jobs", jobs, "Submitted")->capture_default_str();
  app.add_option("--watchers", watchers)->capture_default_str();
  app.add_option("--idle", idle, "Connections")->capture_default_str();
  app.add_option("--mebibytes", mebibytes, "Of a blob")->capture_default_str();
  app.add_option("--streams", streams, "Blobs at a time")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const auto ready = quantd::ReadFile(ready_file);
  if (!ready.ok()) {
    std::cerr << "quantd_load: " << ready.status().message() << "\n";
    return 2;
  }
  const quantd::load::Target target = {Value(*ready, "listen"), Value(*ready, "pid"), std::cout};
  std::cout << std::unitbuf;
  quantd::RaiseOpenFilesLimit();
  const auto wanted = [&](const char* part) {
    return std::count(parts.begin(), parts.end(), part) > 0;
  };
  quantd::v1::Lease lease;
  if (wanted("queue")) {
    quantd::load::MeasureSubmits(target, jobs);
    lease = quantd::load::MeasureLeases(target);
  }
  std::optional<quantd::load::IdleConnections> connections;
  if (wanted("idle")) connections.emplace(target, idle);
  if (wanted("watchers")) quantd::load::MeasureWatchers(target, lease, watchers);
  if (connections.has_value()) connections->MeasureRefusals();
  if (wanted("transfers")) quantd::load::MeasureTransfers(target, mebibytes, streams);
  return 0;
}
