// Workers that are replaced after so many connections, and how many start at the same time.
#include <signal.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "tests/system/harness.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

// How many connections each worker served, as their clients saw it.
class Ledger {
 public:
  void converse(Client& client) {
    pid_t pid = pid_serving(client);
    client.half_close();
    if (!client.read_until_eof().empty()) throw Failure("more than one answer");
    std::lock_guard lock(mutex_);
    ++served_[pid];
  }
  std::map<pid_t, int> served() {
    std::lock_guard lock(mutex_);
    return served_;
  }

 private:
  std::mutex mutex_;
  std::map<pid_t, int> served_;
};

void recycle(const std::string& workers, uint64_t per_client) {
  constexpr int kClients = 4, kConnections = 20;
  Server server({PoolText{.serves = unruly(),
                          .workers = workers + " shrink_after = 600.0; connections = " +
                                     std::to_string(kConnections) + ";"}});
  Ledger ledger;
  Load load(
      server.address(), kClients, [&](Client& client) { ledger.converse(client); }, per_client);
  load.join();
  expect_equal("error", load.error(), "");
  const uint64_t total = kClients * per_client;
  server.wait_for("/connections/served", total);
  server.wait_until("whoever wanted to leave has left", kPatience, [&] {
    Json pool = server.pool();
    return pool["workers"]["retiring"] == 0 && pool["workers"]["starting"] == 0;
  });
  // The last to reach its limit may have been asked about before it had left.
  int gone = 0;
  server.wait_until("whoever has left is counted", kPatience, [&] {
    gone = 0;
    for (const auto& [pid, served] : ledger.served()) gone += !is_running(pid);
    return server.pool()["lifetime"]["recycled"] == gone;
  });
  for (const auto& [pid, served] : ledger.served()) {
    expect(served <= 22, "a worker served " + std::to_string(served));
    if (!is_running(pid)) expect(served >= 18, "a worker left after " + std::to_string(served));
  }
  Json pool = server.pool();
  expect(gone >= static_cast<int>(total) / 22 - 8, "workers recycled: " + std::to_string(gone));
  expect_equal("failed", pool["connections"]["failed"], 0);
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
}

void with_room() { recycle("min = 4; max = 12; min_spare = 1; max_spare = 12;", 150); }
void at_max() { recycle("min = 4; max = 4;", 150); }
void a_pool_of_one() { recycle("min = 1; max = 1; min_spare = 1;", 60); }

void after_every_connection() {
  Server server({PoolText{.serves = unruly(),
                          .workers = "min = 1; max = 3; min_spare = 1; connections = 1;"}});
  Ledger ledger;
  Load load(
      server.address(), 2, [&](Client& client) { ledger.converse(client); }, 40);
  load.join();
  expect_equal("error", load.error(), "");
  for (const auto& [pid, served] : ledger.served())
    expect_equal("connections of a worker", served, 1);
  server.wait_for("/lifetime/recycled", 80);
}

void start_tickets() {
  TestFolder folder;
  std::string starts = folder.write("starts", "", 0666);
  Server server(
      {PoolText{.serves = unruly("start_ms = 60; starts = \"" + starts + "\";"),
                .workers = "min = 8; max = 16; min_spare = 2; max_spare = 16; starting = 2;"}});
  server.wait_for("/workers/idle", 8);
  std::vector<Client> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back(server.address());
    clients.back().send("p");
  }
  for (Client& client : clients) client.read_line();
  server.wait_until("all have started", kPatience,
                    [&] { return server.pool()["workers"]["starting"] == 0; });
  int most = 0;
  server.wait_until("each start is written down", kPatience, [&] {
    int at_once = 0, begun = 0;
    for (char mark : file_text(starts)) {
      at_once += mark == '+' ? 1 : -1;
      begun += mark == '+';
      most = std::max(most, at_once);
    }
    return at_once == 0 && server.pool()["lifetime"]["forked"] == begun;
  });
  expect_equal("most workers in start at once", most, 2);
}

// A ticket that dies with its worker must not be missing afterwards.
void start_tickets_survive_deaths() {
  TestFolder folder;
  std::string starts = folder.write("starts", "", 0666);
  Server server({PoolText{.serves = unruly("start_ms = 100; starts = \"" + starts + "\";"),
                          .workers = "min = 6; max = 6; starting = 2;"}},
                {.wait_until_ready = false});
  server.wait_until("two are in start", kPatience, [&] { return file_text(starts).size() >= 2; });
  for (pid_t pid : server.worker_pids()) kill(pid, SIGKILL);
  server.wait_for("/workers/idle", 6);
  server.wait_for("/state", "running");
}

}  // namespace

Suite recycle_suite() {
  return {"recycle",
          {{"with room for the replacement", with_room},
           {"at max", at_max},
           {"a pool of one", a_pool_of_one},
           {"after every connection", after_every_connection},
           {"start tickets", start_tickets},
           {"start tickets survive deaths", start_tickets_survive_deaths}}};
}

}  // namespace preforkd::system_test
