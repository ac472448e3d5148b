// Ctrl-C counted instead of obeyed, while something is being watched. One object at a time.
#pragma once

#include <csignal>

namespace quantd {

class Interrupts {
 public:
  // SIGINT and SIGTERM are counted until the destructor puts the earlier handlers back.
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  int count() const;

 private:
  struct sigaction earlier_int_ {};
  struct sigaction earlier_term_ {};
};

}  // namespace quantd
