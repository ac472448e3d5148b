// The way to the scheduler, step by step, so that the first broken one is named.
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "client/doctor/findings.h"

namespace quantd {
namespace {

constexpr int kConnectMs = 3'000;
constexpr int64_t kWorkerDiskBytesMin = int64_t{10} << 30;

using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

// 0, or why no connection came.
int TryConnect(const addrinfo& address) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  int error = connect(fd, address.ai_addr, address.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd wait{fd, POLLOUT, 0};
    socklen_t size = sizeof error;
    if (poll(&wait, 1, kConnectMs) <= 0) {
      error = ETIMEDOUT;
    } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
      error = errno;
    }
  }
  close(fd);
  return error;
}

std::string ConnectRemedy(int error, const std::string& host) {
  if (error == ECONNREFUSED) {
    return absl::StrCat("nothing listens there: start quantd on ", host,
                        ", or name the port of its --listen");
  }
  return absl::StrCat("check the address, and firewalls on the way; behind one, use a tunnel: ",
                      "ssh -L 7717:127.0.0.1:7717 ", host);
}

Finding CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty() || port.empty()) {
    return {"address", Verdict::kProblem, absl::StrCat("\"", address, "\" is no HOST:PORT"),
            "write --scheduler HOST:PORT, for example 127.0.0.1:7717"};
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  const Addresses addresses(found, &freeaddrinfo);
  if (failure != 0) {
    return {"address", Verdict::kProblem,
            absl::StrCat("looking up ", host, ": ", gai_strerror(failure)),
            "check the name's spelling and this machine's DNS, or give an IP address"};
  }
  int error = 0;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    error = TryConnect(*one);
    if (error == 0) return {"address", Verdict::kOk, absl::StrCat(address, " accepts connections")};
  }
  return {"address", Verdict::kProblem,
          absl::StrCat("connecting to ", address, ": ", std::strerror(error)),
          ConnectRemedy(error, host)};
}

Finding CheckEncryption(const Session& session) {
  if (session.loopback()) {
    return {"tls", Verdict::kOk, "not encrypted, and the connection stays on this machine"};
  }
  return {"tls", Verdict::kWarning, "not encrypted: others on the way can read and change it",
          "use a tunnel (ssh -L), or a network that you trust"};
}

Finding CheckHealth(Session& session) {
  const absl::StatusOr<bool> serving = session.scheduler().Serving();
  if (!serving.ok()) {
    return {
        "health", Verdict::kProblem, std::string(serving.status().message()),
        absl::StrCat("is it a quantd that listens at ", session.address(), "? Its log tells more")};
  }
  if (!*serving) {
    return {"health", Verdict::kProblem, "it answers and does not serve",
            "it is stopping, or its disk or database is in trouble: read its log"};
  }
  return {"health", Verdict::kOk, "serving"};
}

Finding CheckVersion(Session& session) {
  const std::string version = session.scheduler().version();
  if (version == QUANTD_VERSION) {
    return {"version", Verdict::kOk, absl::StrCat("scheduler and quantctl are ", version)};
  }
  return {"version", Verdict::kWarning,
          absl::StrCat("the scheduler is ", version.empty() ? "of an unknown version" : version,
                       ", quantctl is " QUANTD_VERSION),
          "install the same version on both sides"};
}

Finding CheckOneWorker(const v1::Worker& worker) {
  const std::string id = worker.name().substr(worker.name().rfind('/') + 1);
  std::vector<std::string> parts;
  for (const v1::Device& device : worker.catalog().devices()) {
    if (device.type() == "cpu") continue;
    parts.push_back(absl::StrCat(device.name(), " ", FormatBytes(device.memory_bytes()),
                                 ", driver ", device.driver_version()));
  }
  if (parts.empty()) parts.push_back("CPU only");
  Finding finding{absl::StrCat("worker ", id), Verdict::kOk, absl::StrJoin(parts, "; ")};
  if (worker.state() == v1::Worker::LOST) {
    const absl::Time seen = absl::FromUnixSeconds(worker.last_seen_time().seconds());
    finding.verdict = Verdict::kWarning;
    finding.text = absl::StrCat("not heard of for ", ShortDuration(absl::Now() - seen));
    finding.remedy = "start it again, or forget it: its jobs go on elsewhere";
  } else if (worker.version() != QUANTD_VERSION) {
    finding.verdict = Verdict::kWarning;
    absl::StrAppend(&finding.text, "; version ", worker.version(), ", quantctl is " QUANTD_VERSION);
    finding.remedy = "install the same version everywhere";
  } else if (worker.disk_free_bytes() < kWorkerDiskBytesMin) {
    finding.verdict = Verdict::kWarning;
    absl::StrAppend(&finding.text, "; only ", FormatBytes(worker.disk_free_bytes()),
                    " of disk are free");
    finding.remedy = "a job needs room for the model twice: free some, or move --data";
  }
  return finding;
}

// Access and the workers: one call shows both.
std::vector<Finding> CheckWorkers(Session& session) {
  std::vector<Finding> findings;
  v1::ListWorkersRequest request;
  int usable = 0;
  do {
    const absl::StatusOr<v1::ListWorkersResponse> page = session.scheduler().Call(request);
    if (!page.ok()) {
      const bool denied =
          absl::IsUnauthenticated(page.status()) || absl::IsPermissionDenied(page.status());
      findings.push_back(
          {"access", Verdict::kProblem, std::string(page.status().message()),
           denied ? "ask the scheduler's owner for a token, and check --tenant" : ""});
      return findings;
    }
    if (request.page_token().empty()) {
      findings.push_back(
          {"access", Verdict::kOk, absl::StrCat("calls are allowed, tenant ", session.tenant())});
      findings.push_back(CheckVersion(session));
    }
    for (const v1::Worker& worker : page->workers()) {
      findings.push_back(CheckOneWorker(worker));
      usable += worker.state() == v1::Worker::IDLE || worker.state() == v1::Worker::BUSY ? 1 : 0;
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  if (usable == 0) {
    findings.push_back({"workers", Verdict::kWarning, "none is connected: jobs will wait",
                        absl::StrCat("start one: quant-worker --scheduler ", session.address())});
  }
  return findings;
}

}  // namespace

const char* VerdictWord(Verdict verdict) {
  constexpr const char* kWords[] = {"ok", "note", "warning", "problem"};
  return kWords[static_cast<size_t>(verdict)];
}

std::vector<Finding> CheckScheduler(Session& session) {
  std::vector<Finding> findings;
  if (!absl::StartsWith(session.address(), "unix:")) {
    findings.push_back(CheckAddress(session.address()));
    if (findings.back().verdict == Verdict::kProblem) return findings;
  }
  findings.push_back(CheckEncryption(session));
  findings.push_back(CheckHealth(session));
  if (findings.back().verdict == Verdict::kProblem) return findings;
  for (Finding& finding : CheckWorkers(session)) findings.push_back(std::move(finding));
  return findings;
}

}  // namespace quantd
