#include "tests/sweep/crowd.h"

#include <time.h>

#include <algorithm>
#include <exception>

#include "tests/system/check.h"
#include "tests/system/client.h"

namespace preforkd::sweep {
namespace {

using system_test::Client;
using system_test::Failure;

constexpr Nanoseconds kBetween = 25 * kMillisecond, kBetweenLines = 50 * kMillisecond;
constexpr int kMostLosses = 5;  // of who was served, and of others

void pause(Nanoseconds time) {
  const timespec t = to_timespec(time);
  nanosleep(&t, nullptr);
}

// One that has half-closed hears the end.
void take_leave(Client& client) {
  client.half_close();
  if (!client.read_until_eof(kLongest).empty()) throw Failure("more than what was sent");
}

}  // namespace

Crowd::Crowd(const std::string& address) : address_(address) {
  threads_.emplace_back([this](std::stop_token end) { come_and_go(end); });
  threads_.emplace_back([this](std::stop_token end) { stay(end); });
}

void Crowd::ask_to_leave() {
  for (std::jthread& thread : threads_) thread.request_stop();
}

void Crowd::leave() {
  ask_to_leave();
  threads_.clear();
}

void Crowd::come_and_go(std::stop_token end) {
  while (!end.stop_requested()) {
    const Nanoseconds began = monotonic_now();
    Nanoseconds served_since = kNever;
    try {
      Client client(address_);
      if (!client.echoes("hello\n", kLongest)) throw Failure("another answer than what was sent");
      served_since = monotonic_now();
      take_leave(client);
      if (to_seconds(monotonic_now() - began) > kLongest) throw Failure("waited for too long");
      ++served_;
    } catch (const std::exception& e) {
      lose(std::string("who came: ") + e.what(), served_since);
    }
    pause(kBetween);
  }
}

void Crowd::stay(std::stop_token end) {
  Nanoseconds served_since = kNever;
  try {
    Client client(address_);
    while (!end.stop_requested()) {
      if (!client.echoes("still here\n", kLongest))
        throw Failure("another answer than what was sent");
      if (served_since == kNever) served_since = monotonic_now();
      pause(kBetweenLines);
    }
    take_leave(client);
  } catch (const std::exception& e) {
    lose(std::string("who stayed: ") + e.what(), served_since);
  }
}

void Crowd::lose(const std::string& text, Nanoseconds served_since) {
  std::lock_guard lock(mutex_);
  const bool was_served = served_since != kNever;
  const auto alike = std::count_if(losses_.begin(), losses_.end(), [=](const Loss& other) {
    return (other.served_since != kNever) == was_served;
  });
  if (alike < kMostLosses)
    losses_.push_back({served_since, monotonic_now(), "lost at " + address_ + ": " + text});
}

}  // namespace preforkd::sweep
