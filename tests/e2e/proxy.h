// A TCP proxy in the test's own process that is as bad as networks are: it holds everything back,
// delays, stalls, resets, or forgets one side of a connection without a word.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace quantd::e2e {

struct Weather {
  // Nothing passes and nobody is let in; what was sent waits, as in TCP's buffers.
  bool black_hole = false;
  // What is read is passed on after `delay`, give or take `jitter`.
  absl::Duration delay = absl::ZeroDuration();
  absl::Duration jitter = absl::ZeroDuration();
  // A lost packet, as those at the ends of a connection see it: this share of reads, and all that
  // follows them, comes `stall` later.
  double loss = 0;
  absl::Duration stall = absl::Milliseconds(200);
  // Each connection is reset after about so long.
  absl::Duration reset_after = absl::InfiniteDuration();
};

class Proxy {
 public:
  // Passes on to "127.0.0.1:port".
  Proxy(const std::string& upstream, uint64_t seed);
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  const std::string& address() const { return address_; }
  void Set(const Weather& weather);
  // Every connection there is loses its upstream side, and its client is not told: what it sends is
  // taken, and nothing comes back. New connections are as the weather is.
  void HalfOpen();
  // Connections passed on so far, and reset.
  int64_t accepted() const;
  int64_t resets() const;

 private:
  struct Piece {
    absl::Time due;
    std::string bytes;
  };
  // From one socket to the other.
  struct Direction {
    std::deque<Piece> pieces;
    size_t held_bytes = 0;
    bool ended = false;  // The sender has closed its side ...
    bool told = false;   // ... and the receiver knows.
  };
  struct Connection {
    int client = -1;
    int upstream = -1;  // -1: forgotten.
    Direction up, down;
    absl::Time reset_time = absl::InfiniteFuture();
  };

  void Loop();
  void Accept() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False when the connection is over.
  bool Serve(Connection* connection, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Read(int from, Direction* direction, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static bool Write(int to, Direction* direction, absl::Time now);
  void Close(Connection* connection, bool reset);
  absl::Duration Around(absl::Duration middle, absl::Duration give)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  int upstream_port_ = 0;
  int listener_ = -1;
  std::string address_;
  mutable absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Weather weather_ ABSL_GUARDED_BY(mutex_);
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::unique_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);
  int64_t accepted_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t resets_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

}  // namespace quantd::e2e
