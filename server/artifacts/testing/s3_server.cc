// The server as a child that dies with the test.
#include "server/artifacts/testing/s3_server.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/file.h"
#include "base/http.h"

namespace quantd {
namespace {

constexpr char kKey[] = "test-key";
constexpr char kSecret[] = "test-secret";

std::string Python() {
  const char* folder = getenv("QUANTD_S3_SERVER");
  return folder == nullptr ? "" : absl::StrCat(folder, "/bin/python");
}

}  // namespace

bool S3Server::Available() { return FileExists(Python()); }

S3Server::S3Server() {
  const std::string python = Python();
  const std::string script = QUANTD_SOURCE_DIR "/server/artifacts/testing/s3_server.py";
  int pipe_fds[2];
  QD_CHECK(pipe(pipe_fds) == 0);
  const pid_t parent = getpid();
  pid_ = fork();
  QD_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(126);
    dup2(pipe_fds[1], 1);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    execl(python.c_str(), "python", script.c_str(), "0", kKey, kSecret, nullptr);
    _exit(127);
  }
  close(pipe_fds[1]);
  std::string line;
  for (char c = 0; read(pipe_fds[0], &c, 1) == 1 && c != '\n';) line.push_back(c);
  close(pipe_fds[0]);
  int port = 0;
  QD_CHECK(absl::SimpleAtoi(line, &port), "the S3 server does not start: ", line);
  url_ = absl::StrCat("http://127.0.0.1:", port);
}

S3Server::~S3Server() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

S3Config S3Server::Config(const std::string& prefix) const {
  S3Config config;
  config.bucket = "bucket";
  config.prefix = prefix;
  config.endpoint = url_;
  config.keys = {.access_key = kKey, .secret_key = kSecret, .session_token = ""};
  config.stall = absl::Seconds(2);
  config.attempts = 3;
  return config;
}

void S3Server::Freeze() { kill(pid_, SIGSTOP); }
void S3Server::Thaw() { kill(pid_, SIGCONT); }

void S3Server::Fault(const std::string& json) {
  HttpRequest request;
  request.url = url_ + "/-/fault";
  request.method = "POST";
  request.body = TextBody(json);
  const auto answer = PerformHttp(request);
  QD_CHECK(answer.ok() && answer->status == 200, "", answer.status().ToString());
}

int64_t S3Server::Count(const std::string& what) {
  HttpRequest request;
  request.url = url_ + "/-/counts";
  const auto answer = PerformHttp(request);
  QD_CHECK(answer.ok(), "", answer.status().ToString());
  const std::string name = absl::StrCat("\"", what, "\": ");
  const size_t at = answer->body.find(name);
  if (at == std::string::npos) return 0;
  const absl::string_view rest = absl::string_view(answer->body).substr(at + name.size());
  int64_t count = 0;
  QD_CHECK(absl::SimpleAtoi(rest.substr(0, rest.find_first_of(",}")), &count), "", rest);
  return count;
}

S3Server& SharedS3Server() {
  static S3Server server;
  return server;
}

}  // namespace quantd
