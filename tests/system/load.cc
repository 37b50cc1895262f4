#include "tests/system/load.h"

#include <exception>

#include "tests/system/check.h"

namespace preforkd::system_test {

void short_echo(Client& client) {
  if (!client.echoes("hello\n")) throw Failure("another answer than what was sent");
  client.half_close();
  if (!client.read_until_eof().empty()) throw Failure("more than what was sent");
}

Load::Load(const std::string& address, int clients, Conversation conversation,
           uint64_t connections) {
  for (int i = 0; i < clients; ++i)
    threads_.emplace_back(
        [=, this, conversation = conversation] { run(address, conversation, connections); });
}

void Load::run(const std::string& address, const Conversation& conversation, uint64_t connections) {
  for (uint64_t i = 0; (connections == 0 || i < connections) && !stopping_; ++i) {
    try {
      Client client(address);
      conversation(client);
      ++done_;
    } catch (const std::exception& e) {
      std::lock_guard lock(mutex_);
      if (error_.empty()) error_ = e.what();
      return;
    }
  }
}

void Load::stop() {
  stopping_ = true;
  join();
}

void Load::join() { threads_.clear(); }

}  // namespace preforkd::system_test
