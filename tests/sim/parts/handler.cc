// A handler that does what the scenario says.
#include "worker/handler_library.h"

#include <signal.h>
#include <unistd.h>

#include <deque>
#include <stdexcept>
#include <string>

#include "base/clock.h"
#include "tests/sim/parts.h"
#include "worker/signals.h"

namespace preforkd {
namespace sim {

HandlerObserver* handler_observer = nullptr;

namespace {

std::deque<Behaviour> handlers;

const Behaviour& behaviour_of(void* state) { return *static_cast<const Behaviour*>(state); }

// Whatever interrupts it.
void rest(Nanoseconds how_long) {
  for (const Nanoseconds until = monotonic_now() + how_long; monotonic_now() < until;)
    sleep_for(until - monotonic_now());
}

void die_later() {
  const pid_t pid = kernel->current()->pid;
  kernel->after(5 * kMillisecond, [pid] { kernel->send_signal(pid, SIGSEGV); });
}

int start(void* state) {
  const Behaviour& b = behaviour_of(state);
  rest(b.start_time);
  kernel->current()->processor_time += b.start_time / 2;
  while (b.start_hangs) rest(kSecond);
  if (b.start_crashes) raise(SIGSEGV);
  if (b.start_fails) return 1;
  if (b.crashes_when_idle) die_later();
  handler_observer->on_started(*kernel->current());
  return 0;
}

int serve(void*, const preforkd_connection* c) {
  auto& connection = *kernel->file<Connection>(c->fd);
  handler_observer->on_serve(connection, *kernel->current());
  if (connection.kind == Connection::Kind::kHangOn) {
    const uint64_t term = signal_bit(SIGTERM);
    kernel->set_blocked(kernel->current()->blocked | term);
  }
  if (connection.kind == Connection::Kind::kHang || connection.kind == Connection::Kind::kHangOn)
    rest(3600 * kSecond);
  rest(connection.service);
  if (connection.kind == Connection::Kind::kCrash) raise(SIGSEGV);
  if (connection.kind == Connection::Kind::kExit) {
    kernel->current()->may_leave = true;
    _exit(0);
  }
  connection.is_answered = true;
  handler_observer->on_answer(connection);
  return connection.kind == Connection::Kind::kFail;
}

void stop(void* state) { rest(behaviour_of(state).stop_time); }

constexpr struct preforkd_handler kWithStart = {
    PREFORKD_ABI, sizeof(struct preforkd_handler), "sim", nullptr, start, serve, stop};
constexpr struct preforkd_handler kWithoutStart = {
    PREFORKD_ABI, sizeof(struct preforkd_handler), "sim", nullptr, nullptr, serve, stop};

}  // namespace

std::string add_handler(const Behaviour& behaviour) {
  handlers.push_back(behaviour);
  return "/" + std::to_string(handlers.size() - 1);
}
Behaviour& handler_named(const std::string& name) { return handlers[std::stoul(name.substr(1))]; }

}  // namespace sim

HandlerLibrary::HandlerLibrary(const std::string& path, int) : path_(path) {
  sim::Behaviour& b = sim::handler_named(path);
  state_ = &b;
  handler_ = b.has_start ? &sim::kWithStart : &sim::kWithoutStart;
}

void HandlerLibrary::preload(const std::string&, const std::string&) {
  const auto& b = *static_cast<const sim::Behaviour*>(state_);
  sim::rest(b.preload_time);
  if (b.preload_fails) throw std::runtime_error("preload " + path_ + ": it returned 1");
}

}  // namespace preforkd
