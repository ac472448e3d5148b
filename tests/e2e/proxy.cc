// One thread looks at all sockets every few milliseconds: a test has some dozens of connections,
// and a loop without readiness cannot be wrong about it.
#include "tests/e2e/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quantd::e2e {
namespace {

constexpr absl::Duration kTurn = absl::Milliseconds(2);
constexpr size_t kReadBytes = 64 << 10;
// In flight in one direction; a sender that has more waits, as on any connection.
constexpr size_t kHeldBytesMax = 1 << 20;

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

}  // namespace

Proxy::Proxy(const std::string& upstream, uint64_t seed) : random_(seed) {
  QD_CHECK(absl::SimpleAtoi(upstream.substr(upstream.rfind(':') + 1), &upstream_port_));
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof address;
  QD_CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
  QD_CHECK(listen(listener_, SOMAXCONN) == 0);
  QD_CHECK(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  thread_ = std::thread([this] { Loop(); });
}

Proxy::~Proxy() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
  close(listener_);
}

void Proxy::Set(const Weather& weather) {
  absl::MutexLock lock(&mutex_);
  weather_ = weather;
  const absl::Time now = absl::Now();
  for (const auto& connection : connections_) {
    connection->reset_time = now + Around(weather.reset_after, weather.reset_after);
  }
}

void Proxy::HalfOpen() {
  absl::MutexLock lock(&mutex_);
  for (const auto& connection : connections_) {
    if (connection->upstream >= 0) close(connection->upstream);
    connection->upstream = -1;
    connection->down = {};
  }
}

int64_t Proxy::accepted() const {
  absl::MutexLock lock(&mutex_);
  return accepted_;
}

int64_t Proxy::resets() const {
  absl::MutexLock lock(&mutex_);
  return resets_;
}

absl::Duration Proxy::Around(absl::Duration middle, absl::Duration give) {
  if (give <= absl::ZeroDuration() || middle == absl::InfiniteDuration()) return middle;
  const double share = std::uniform_real_distribution<double>(-1, 1)(random_);
  return std::max(absl::ZeroDuration(), middle + share * give);
}

void Proxy::Loop() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (stop_) {
        for (const auto& connection : connections_) Close(connection.get(), /*reset=*/false);
        return;
      }
      if (!weather_.black_hole) {
        Accept();
        const absl::Time now = absl::Now();
        connections_.erase(std::remove_if(connections_.begin(), connections_.end(),
                                          [&](const auto& connection) {
                                            mutex_.AssertHeld();
                                            return !Serve(connection.get(), now);
                                          }),
                           connections_.end());
      }
    }
    absl::SleepFor(kTurn);
  }
}

void Proxy::Accept() {
  while (true) {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0) return;
    auto connection = std::make_unique<Connection>();
    connection->client = client;
    connection->upstream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in to = Loopback(upstream_port_);
    if (connect(connection->upstream, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
      Close(connection.get(), /*reset=*/true);  // Nobody is there.
      continue;
    }
    for (const int fd : {connection->client, connection->upstream}) {
      const int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    connection->reset_time = absl::Now() + Around(weather_.reset_after, weather_.reset_after);
    connections_.push_back(std::move(connection));
    ++accepted_;
  }
}

bool Proxy::Serve(Connection* connection, absl::Time now) {
  if (now >= connection->reset_time) {
    ++resets_;
    Close(connection, /*reset=*/true);
    return false;
  }
  Direction& up = connection->up;
  Direction& down = connection->down;
  if (connection->upstream < 0) {  // What the client says goes nowhere.
    char nowhere[kReadBytes];
    const ssize_t got = recv(connection->client, nowhere, sizeof nowhere, MSG_DONTWAIT);
    if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR))) return true;
    Close(connection, /*reset=*/false);
    return false;
  }
  const bool lives = Read(connection->client, &up, now) && Read(connection->upstream, &down, now) &&
                     Write(connection->upstream, &up, now) && Write(connection->client, &down, now);
  if (lives && !(up.told && down.told)) return true;
  Close(connection, /*reset=*/!lives);
  return false;
}

bool Proxy::Read(int from, Direction* direction, absl::Time now) {
  while (!direction->ended && direction->held_bytes < kHeldBytesMax) {
    std::string bytes(kReadBytes, '\0');
    const ssize_t got = recv(from, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) direction->ended = true;
    bytes.resize(static_cast<size_t>(got));
    absl::Time due = now + Around(weather_.delay, weather_.jitter);
    if (std::uniform_real_distribution<double>(0, 1)(random_) < weather_.loss)
      due += weather_.stall;
    // Nothing overtakes in TCP.
    if (!direction->pieces.empty()) due = std::max(due, direction->pieces.back().due);
    direction->held_bytes += bytes.size();
    if (got > 0) direction->pieces.push_back({due, std::move(bytes)});
  }
  return true;
}

bool Proxy::Write(int to, Direction* direction, absl::Time now) {
  while (!direction->pieces.empty() && direction->pieces.front().due <= now) {
    std::string& bytes = direction->pieces.front().bytes;
    const ssize_t sent = send(to, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    direction->held_bytes -= static_cast<size_t>(sent);
    bytes.erase(0, static_cast<size_t>(sent));
    if (!bytes.empty()) return true;
    direction->pieces.pop_front();
  }
  if (direction->ended && !direction->told && direction->pieces.empty()) {
    direction->told = true;
    shutdown(to, SHUT_WR);
  }
  return true;
}

void Proxy::Close(Connection* connection, bool reset) {
  for (const int fd : {connection->client, connection->upstream}) {
    if (fd < 0) continue;
    const linger at_once = {.l_onoff = 1, .l_linger = 0};
    if (reset) setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
  }
}

}  // namespace quantd::e2e
