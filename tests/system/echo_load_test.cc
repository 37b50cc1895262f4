// 64 clients for 10 seconds, in waves: whatever the pool does with its workers meanwhile, no client may
// notice.
#include <algorithm>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr int kSteady = 8, kWave = 56;

// Long enough for many to be served at the same time.
void long_echo(Client& client) {
  const std::string text(1000, 'x');
  for (int i = 0; i < 200; ++i)
    if (!client.echoes(text)) throw Failure("the echo differs");
  short_echo(client);
}

int total(Server& server) { return server.pool()["workers"]["total"]; }

void waves() {
  Server server({PoolText{.workers = "min = 2; max = 128; min_spare = 2; max_spare = 4; "
                                     "shrink_after = 0.3;"}});
  const Nanoseconds end = monotonic_now() + 10 * kSecond;
  Load steady(server.address(), kSteady);
  uint64_t connections = 0;
  int waves_seen = 0;
  while (monotonic_now() < end) {
    Load wave(server.address(), kWave, long_echo);
    server.wait_until("the pool has grown with the wave", kPatience,
                      [&] { return total(server) >= kWave; });
    const uint64_t before = wave.done();
    server.wait_until("each of the wave was served", kPatience,
                      [&] { return wave.done() >= before + kWave; });
    wave.stop();
    connections += wave.done();
    expect_equal("what went wrong in the wave", wave.error(), "");
    server.wait_until("the pool has shrunk after the wave", kPatience,
                      [&] { return total(server) <= kWave / 2; });
    ++waves_seen;
  }
  steady.stop();
  connections += steady.done();
  expect_equal("what went wrong for the steady clients", steady.error(), "");
  expect(waves_seen >= 2, std::to_string(waves_seen) + " waves in 10 s");
  expect_exact_figures(server, "echo", connections);
  Json pool = server.pool();
  expect_equal("failed", pool["connections"]["failed"].get<int>(), 0);
  expect(pool["lifetime"]["retired"] > 0, "workers were retired");

  Json decisions = server.decisions();
  auto decided = [&](const char* action) {
    return std::any_of(decisions.begin(), decisions.end(),
                       [=](const Json& decision) { return decision["action"] == action; });
  };
  expect(decided("grow"), "a decision to grow: " + decisions.dump());
  expect(decided("shrink"), "a decision to shrink");
}

}  // namespace

Suite echo_load_suite() { return {"echo_load", {{"64 clients in waves", waves}}}; }

}  // namespace preforkd::system_test
