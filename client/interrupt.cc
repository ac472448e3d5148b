// The handler only counts: everything else happens in the loop that asks.
#include "client/interrupt.h"

#include <atomic>

namespace quantd {
namespace {

std::atomic<int> interrupt_count{0};
static_assert(std::atomic<int>::is_always_lock_free);

void Count(int) { interrupt_count.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

Interrupts::Interrupts() {
  interrupt_count = 0;
  struct sigaction action {};
  action.sa_handler = &Count;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &earlier_int_);
  sigaction(SIGTERM, &action, &earlier_term_);
}

Interrupts::~Interrupts() {
  sigaction(SIGINT, &earlier_int_, nullptr);
  sigaction(SIGTERM, &earlier_term_, nullptr);
}

int Interrupts::count() const { return interrupt_count.load(std::memory_order_relaxed); }

}  // namespace quantd
