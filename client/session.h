// What one run of quantctl has in hand: where it prints, which scheduler it talks to, and how an
// error becomes words and an exit code. Settings come from flags, then the environment, then the
// settings file.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/exit_code.h"
#include "client/render/table.h"
#include "client/scheduler.h"
#include "google/protobuf/message.h"
#include "proto/connect.h"
#include "proto/quantd/v1/client.pb.h"

namespace quantd {

inline constexpr char kDefaultScheduler[] = "127.0.0.1:7717";

// The process around the program, replaced in tests.
struct Environment {
  std::ostream* out = nullptr;
  std::ostream* err = nullptr;
  // nullptr: not set.
  std::function<const char*(const char*)> variable;
  // Whether `out` is a terminal, and how large.
  bool terminal = false;
  size_t width = 80;
  size_t height = 24;
};
Environment ProcessEnvironment();

// Flags that every command has; empty: not given.
struct GlobalFlags {
  ConnectOptions connect;  // .address: the scheduler's.
  std::string tenant;
  bool json = false;
  std::string timeout;
};

class Session {
 public:
  Session(const Environment& environment, const GlobalFlags& flags);

  // Reads the settings file and checks the flags. To be called before the rest.
  absl::Status Configure();

  std::ostream& out() { return *environment_.out; }
  std::ostream& err() { return *environment_.err; }
  const char* variable(const char* name) const { return environment_.variable(name); }
  bool json() const { return flags_.json; }
  bool terminal() const { return environment_.terminal && !flags_.json; }
  // 0 where lines have no limit.
  size_t width() const { return terminal() ? environment_.width : 0; }
  // Lines that fit the terminal below a prompt.
  size_t height() const { return environment_.height > 1 ? environment_.height - 1 : 1; }
  Style style() const { return style_; }
  // Infinite without --timeout.
  absl::Duration timeout() const { return timeout_; }
  const std::string& tenant() const { return tenant_; }
  std::string parent() const;
  const ConnectOptions& connection() const { return connect_; }
  const std::string& address() const { return connect_.address; }
  // Whether the scheduler runs on this machine, and its workers probably see the same files.
  bool loopback() const { return IsLoopbackAddress(address()); }
  Scheduler& scheduler();
  // An environment variable; empty when it is not set.
  std::string Variable(const char* name) const;

  // "jobs/{j}", "tenants/{t}/jobs/{j}" or the bare id, as the API's name; likewise for sweeps.
  absl::StatusOr<std::string> JobName(absl::string_view text) const;
  absl::StatusOr<std::string> SweepName(absl::string_view text) const;

  // One line of proto3-JSON: {"key": message}, or the message itself when `key` is empty.
  void PrintJson(absl::string_view key, const google::protobuf::Message& message);
  void PrintTable(const Table& table);
  // Prints what is wrong, one violation a line, and what to do; returns the exit code.
  int Fail(const absl::Status& status);

 private:
  // Address, TLS and token; a token's file in `folder` that others can read is refused.
  absl::Status ConfigureConnection(const v1::ClientConfig& config, const std::string& folder);
  std::string Remedy(const absl::Status& status) const;

  Environment environment_;
  GlobalFlags flags_;
  Style style_;
  ConnectOptions connect_;
  std::string tenant_;
  absl::Duration timeout_ = absl::InfiniteDuration();
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace quantd
