// Clients that come, talk and go, again and again, until they are told to stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/client.h"

namespace preforkd::system_test {

// Says something, hears it back, half-closes, sees the end. Throws Failure if not.
void short_echo(Client& client);

class Load {
 public:
  using Conversation = std::function<void(Client&)>;
  // Each of `clients` threads makes `connections` (0: until stop()).
  Load(const std::string& address, int clients, Conversation conversation = short_echo,
       uint64_t connections = 0);
  ~Load() { stop(); }

  uint64_t done() const { return done_; }
  void stop();  // each thread finishes the connection that it has
  void join();  // until each has made its connections
  // After stop or join: what went wrong first, "" if nothing did.
  const std::string& error() const { return error_; }

 private:
  void run(const std::string& address, const Conversation& conversation, uint64_t connections);

  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> done_{0};
  std::mutex mutex_;
  std::string error_;
  std::vector<std::jthread> threads_;
};

}  // namespace preforkd::system_test
