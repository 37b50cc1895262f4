#include "tests/soak/figures_watch.h"

#include <time.h>

#include <map>
#include <set>

#include "base/clock.h"

namespace preforkd::system_test {
namespace {

// Whatever is a counter there: all numbers of these two, but how many are in hand now.
std::map<std::string, uint64_t> counters_of(const Json& pool) {
  std::map<std::string, uint64_t> all;
  for (const char* group : {"connections", "lifetime"})
    for (const auto& [name, value] : pool.at(group).items())
      if (name != "active" && value.is_number_unsigned()) all[name] = value;
  return all;
}

}  // namespace

FiguresWatch::FiguresWatch(Server& server) : thread_([this, &server] { watch(server); }) {}

void FiguresWatch::stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

void FiguresWatch::watch(Server& server) {
  std::map<std::string, uint64_t> last;
  std::set<pid_t> controls;
  const timespec pause = to_timespec(2 * kMillisecond);
  while (!stopping_) {
    nanosleep(&pause, nullptr);
    Json pool;
    pid_t control = 0;
    try {
      control = server.control();
      const Answer answer = server.request("GET", "/v1/pools/echo");
      if (answer.status != 200) continue;  // the next one comes
      pool = answer.json();
    } catch (const Failure&) {
      continue;
    }
    ++answers_;
    controls.insert(control);
    for (const auto& [name, now] : counters_of(pool)) {
      uint64_t& before = last[name];
      if (now < before)
        falls_.push_back(name + ": " + std::to_string(before) + ", then " + std::to_string(now));
      before = now;
    }
  }
  controls_ = static_cast<int>(controls.size());
}

}  // namespace preforkd::system_test
