#include "worker/host.h"

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"

namespace preforkd {
namespace {

struct {
  Seat* seat = nullptr;
  bool done = false;
} worker;

// Only of a connection in hand: there is nothing to say between two.
Seat* seat_with_connection() {
  return worker.seat && worker.seat->is_serving() ? worker.seat : nullptr;
}

void write_log(int level, const char* text) {
  const int bounded = std::clamp(level, 3, 7);
  log({static_cast<LogLevel>(bounded), {}, 0, text ? text : ""});
}

void note(const char* text) {
  if (Seat* seat = seat_with_connection()) seat->note(text ? text : "");
}

void extend(uint32_t milliseconds) {
  if (Seat* seat = seat_with_connection())
    seat->extend(monotonic_now() + milliseconds * kMillisecond);
}

void recycle() {
  if (!worker.seat) return;
  worker.done = true;
  // In `start`: when its first connection is there (worker/worker.cc). Earlier, it would be replaced unused.
  if (worker.seat->is_serving()) worker.seat->ask_for_recycling();
}

}  // namespace

preforkd_host make_host(const std::string& pool, const std::string& settings) {
  return {
      PREFORKD_ABI, sizeof(preforkd_host), pool.c_str(), settings.c_str(), write_log, note, extend,
      recycle};
}

void host_works_for(Seat& seat) { worker = {&seat, false}; }

bool handler_is_done() { return worker.done; }

}  // namespace preforkd
