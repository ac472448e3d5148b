// initdb and postgres as child processes.
#include "server/store/testing/postgres_server.h"

#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/file.h"

namespace quantd {
namespace {

constexpr char kUser[] = "quantd";
constexpr absl::Duration kStartLimit = absl::Seconds(60);

std::string FindPrograms() {
  glob_t found{};
  glob("/usr/lib/postgresql/*/bin/postgres", 0, nullptr, &found);
  QD_CHECK(found.gl_pathc > 0, "no PostgreSQL server is installed; ./dev setup --tests does it");
  std::string path = found.gl_pathv[found.gl_pathc - 1];
  globfree(&found);
  return path.substr(0, path.rfind('/') + 1);
}

// Whom the server runs as; null: as we do.
const passwd* ServerUser() {
  if (geteuid() != 0) return nullptr;
  const passwd* user = getpwnam("postgres");
  return user != nullptr ? user : getpwnam("nobody");
}

pid_t Spawn(std::vector<std::string> arguments, const std::string& log) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const passwd* user = ServerUser();
  const uid_t uid = user == nullptr ? geteuid() : user->pw_uid;
  const gid_t gid = user == nullptr ? getegid() : user->pw_gid;
  const pid_t parent = getpid();
  const pid_t child = fork();
  QD_CHECK(child >= 0);
  if (child != 0) return child;
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  dup2(out, 1);
  dup2(out, 2);
  if (user != nullptr && (setgroups(0, nullptr) != 0 || setgid(gid) != 0 || setuid(uid) != 0)) {
    _exit(126);
  }
  prctl(PR_SET_PDEATHSIG, SIGQUIT);
  if (getppid() != parent) _exit(126);
  if (chdir("/") != 0) _exit(126);
  execv(argv[0], argv.data());
  _exit(127);
}

pid_t ParentOf(pid_t pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    pid_t parent = 0;
    if (line.rfind("PPid:\t", 0) == 0 && absl::SimpleAtoi(line.substr(6), &parent)) return parent;
  }
  return 0;
}

std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::vector<pid_t> children;
  glob_t found{};
  glob("/proc/[0-9]*", GLOB_NOSORT, nullptr, &found);
  for (size_t i = 0; i < found.gl_pathc; ++i) {
    pid_t pid = 0;
    if (absl::SimpleAtoi(found.gl_pathv[i] + sizeof("/proc/") - 1, &pid) &&
        ParentOf(pid) == parent) {
      children.push_back(pid);
    }
  }
  globfree(&found);
  return children;
}

}  // namespace

PostgresServer::PostgresServer(const Options& options)
    : options_(options), programs_(FindPrograms()) {
  char pattern[] = "/tmp/quantd-pg-XXXXXX";
  QD_CHECK(mkdtemp(pattern) != nullptr);
  folder_ = pattern;
  if (const passwd* user = ServerUser(); user != nullptr) {
    QD_CHECK(chown(folder_.c_str(), user->pw_uid, user->pw_gid) == 0);
  }
  const pid_t init = Spawn({programs_ + "initdb", "-D", folder_ + "/data", "-U", kUser, "-A",
                            "trust", "-E", "UTF8", "--locale=C", "-N", "--no-instructions"},
                           folder_ + "/log");
  int status = 0;
  QD_CHECK(waitpid(init, &status, 0) == init && WIFEXITED(status) && WEXITSTATUS(status) == 0, "",
           Log());
  Start();
}

PostgresServer::~PostgresServer() {
  Kill();
  RemoveTree(folder_).IgnoreError();
}

std::string PostgresServer::Log() const { return ReadFile(folder_ + "/log").value_or("no log"); }

std::string PostgresServer::Url(const std::string& database) const {
  return absl::StrCat("postgres://", kUser, "@/", database, "?host=", folder_);
}

void PostgresServer::Start() {
  if (server_ != 0) return;
  server_ = Spawn({programs_ + "postgres", "-D", folder_ + "/data", "-k", folder_, "-c",
                   "listen_addresses=", "-c", options_.durable ? "fsync=on" : "fsync=off", "-c",
                   "max_connections=200", "-c", "shared_buffers=64MB"},
                  folder_ + "/log");
  const absl::Time limit = absl::Now() + kStartLimit;
  while (PQping(Url("postgres").c_str()) != PQPING_OK) {
    QD_CHECK(absl::Now() < limit, "", Log());
    int status = 0;
    if (waitpid(server_, &status, WNOHANG) == server_) {
      // Sessions of a server that was killed may hold its memory for a moment.
      absl::SleepFor(absl::Milliseconds(100));
      server_ = 0;
      return Start();
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
}

void PostgresServer::Kill() {
  if (server_ == 0) return;
  kill(server_, SIGSTOP);  // It would start sessions anew, or end them in good order.
  for (const pid_t session : ChildrenOf(server_)) kill(session, SIGKILL);
  kill(server_, SIGKILL);
  waitpid(server_, nullptr, 0);
  server_ = 0;
}

std::string PostgresServer::Ask(const std::string& url, const std::string& sql) {
  PGconn* const connection = PQconnectdb(url.c_str());
  PGresult* const result = PQexec(connection, sql.c_str());
  const ExecStatusType status = PQresultStatus(result);
  QD_CHECK(status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK, "", PQerrorMessage(connection));
  const std::string answer = PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "";
  PQclear(result);
  PQfinish(connection);
  return answer;
}

std::string PostgresServer::NewDatabase() {
  const std::string name = absl::StrCat("test", ++databases_);
  Ask(Url("postgres"), absl::StrCat("CREATE DATABASE ", name));
  return Url(name);
}

void PostgresServer::CutSessions() {
  Ask(Url("postgres"),
      "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid != "
      "pg_backend_pid()");
}

PostgresServer& SharedPostgresServer() {
  static PostgresServer server;
  return server;
}

}  // namespace quantd
