// A real S3 API server for tests, on loopback, strict about signatures and digests and able to
// fail on demand (s3_server.py). It comes from QUANTD_S3_SERVER, a folder that ./dev setup --tests
// makes; tests skip where that is not set. Objects live in memory and go with it.
#pragma once

#include <sys/types.h>

#include <string>

#include "server/artifacts/s3_config.h"

namespace quantd {

class S3Server {
 public:
  // Whether there is one to start.
  static bool Available();
  // Ends the test when it does not start.
  S3Server();
  ~S3Server();
  S3Server(const S3Server&) = delete;
  S3Server& operator=(const S3Server&) = delete;

  // Its bucket and keys; short patience.
  S3Config Config(const std::string& prefix) const;
  // "http://127.0.0.1:9000".
  const std::string& url() const { return url_; }
  // Freezes it: connections open and nothing comes.
  void Freeze();
  void Thaw();
  // Arms a fault, as JSON (s3_server.py says which).
  void Fault(const std::string& json);
  // Requests so far, as "PUT", "PUT partNumber".
  int64_t Count(const std::string& what);

 private:
  pid_t pid_ = 0;
  std::string url_;
};

// One for all tests of a process that do not mind each other's prefixes.
S3Server& SharedS3Server();

}  // namespace quantd
