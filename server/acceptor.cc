// The limit is one on descriptors' numbers: the kernel gives out the lowest that is free, so one
// above the limit says that so many are open, and nobody has to count connections, whose ends only
// gRPC sees.
#include "server/acceptor.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"

namespace quantd {
namespace {

// More than anybody's connections take; a million would only slow down who closes all of them.
constexpr rlim_t kOpenFilesMax = 65'536;
// For database, artifacts and logs.
constexpr int kOtherFiles = 256;
// What was sent and is not acknowledged for so long ends the connection.
constexpr int kUnansweredMs = 30'000;
// Without a descriptor for it a connection waits.
constexpr int kPauseMs = 100;
constexpr absl::Duration kSayAgain = absl::Minutes(1);

void Set(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof value);
}

int PortOf(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  // The port lies at the same place in both families.
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

absl::Status Taken(const std::string& address, const std::string& why) {
  return absl::UnavailableError(absl::StrCat("listening on ", address, ": ", why,
                                             "; does another quantd run there? Choose another "
                                             "one with --listen (port 0 takes any)"));
}

}  // namespace

void RaiseOpenFilesLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min(limit.rlim_max, kOpenFilesMax);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    LogWarning("few files may be open", {{"error", strerror(errno)}});
  }
}

int Acceptor::Add(int family, const void* address, unsigned size) {
  const int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  sockaddr_storage to = {};
  memcpy(&to, address, size);
  // The second address of a name gets the port of the first.
  if (port_ != 0)
    reinterpret_cast<sockaddr_in*>(&to)->sin_port = htons(static_cast<uint16_t>(port_));
  if (family == AF_INET6) {
    const bool any = IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<sockaddr_in6*>(&to)->sin6_addr);
    Set(fd, IPPROTO_IPV6, IPV6_V6ONLY, any ? 0 : 1);
  }
  // Connections inherit all of these.
  Set(fd, SOL_SOCKET, SO_REUSEADDR, 1);  // Over those that linger, not over another listener.
  Set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  Set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kUnansweredMs);
  if (bind(fd, reinterpret_cast<sockaddr*>(&to), size) != 0 || listen(fd, SOMAXCONN) != 0) {
    const int why = errno;
    close(fd);
    return why;
  }
  port_ = PortOf(fd);
  listeners_.push_back(fd);
  return 0;
}

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Listen(const std::string& address,
                                                           int connections_max) {
  std::unique_ptr<Acceptor> acceptor(new Acceptor());
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  // As gRPC has it: the one wildcard address stands for both families'.
  const bool any = host == "0.0.0.0" || host == "::";
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error =
          getaddrinfo(any ? "::" : host.c_str(), address.substr(colon + 1).c_str(), &hints, &found);
      error != 0) {
    return Taken(address, gai_strerror(error));
  }
  int why = 0;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    if (const int error = acceptor->Add(one->ai_family, one->ai_addr, one->ai_addrlen);
        error != 0) {
      why = error;
    }
  }
  freeaddrinfo(found);
  if (any && acceptor->listeners_.empty() && why == EAFNOSUPPORT) {  // No IPv6 here.
    sockaddr_in all = {};
    all.sin_family = AF_INET;
    uint32_t port = 0;
    if (absl::SimpleAtoi(address.substr(colon + 1), &port))
      all.sin_port = htons(static_cast<uint16_t>(port));
    why = acceptor->Add(AF_INET, &all, sizeof all);
  }
  if (acceptor->listeners_.empty()) return Taken(address, strerror(why));
  acceptor->stop_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  rlimit files = {};
  getrlimit(RLIMIT_NOFILE, &files);
  const auto may = static_cast<int64_t>(std::min(files.rlim_cur, kOpenFilesMax));
  acceptor->fd_max_ = static_cast<int>(std::min<int64_t>(
      int64_t{acceptor->stop_} + connections_max, std::max<int64_t>(may - kOtherFiles, may / 2)));
  return acceptor;
}

Acceptor::~Acceptor() {
  Stop();
  if (stop_ >= 0) close(stop_);
}

void Acceptor::AddTo(grpc::ServerBuilder* builder,
                     std::shared_ptr<grpc::ServerCredentials> credentials) {
  grpc_ = builder->experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      std::move(credentials));
}

void Acceptor::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void Acceptor::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    if (write(stop_, &one, sizeof one) < 0) LogError("cannot stop accepting");
    thread_.join();
  }
  for (const int fd : std::exchange(listeners_, {})) close(fd);
}

void Acceptor::Loop() {
  std::vector<pollfd> waited = {{stop_, POLLIN, 0}};
  for (const int fd : listeners_) waited.push_back({fd, POLLIN, 0});
  while (true) {
    for (pollfd& one : waited) one.revents = 0;
    if (poll(waited.data(), waited.size(), -1) < 0 && errno != EINTR) return;
    if (waited.front().revents != 0) return;
    for (size_t i = 1; i < waited.size(); ++i) {
      if (waited[i].revents != 0) Accept(waited[i].fd);
    }
  }
}

void Acceptor::Accept(int listener) {
  const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0 && fd <= fd_max_) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = listener;
    connection.fd = fd;
    return grpc_->HandleNewConnection(&connection);
  }
  if (fd < 0 && errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
  const std::string why = fd < 0 ? strerror(errno) : "there are enough";
  if (fd < 0) {
    pollfd stop = {stop_, POLLIN, 0};
    poll(&stop, 1, kPauseMs);
  } else {
    ++refused_;
    close(fd);
  }
  if (const absl::Duration now = Clock::Real().Monotonic(); now - said_ > kSayAgain) {
    said_ = now;
    LogWarning("connections are refused", {{"why", why}, {"files_max", fd_max_}});
  }
}

}  // namespace quantd
