// control/endpoint: what a client of the control socket sends, byte by byte. In the input, NUL stands for a
// pause in which the endpoint works, \1 for 60 KiB of a body, and \2 for the daemon's answer to whoever waits
// for it. What is unanswered at the end is answered when the client is gone.
#include <sys/socket.h>
#include <sys/un.h>

#include <memory>
#include <optional>
#include <vector>

#include "base/log.h"
#include "control/endpoint.h"
#include "tests/fuzz/control.h"

using namespace preforkd;
using fuzz::must;

namespace {

UniqueFd unix_socket() {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  must(fd.is_open(), "a socket");
  return fd;
}

// The endpoint as control has it, with a pool and with nobody behind it.
class World {
 public:
  World() : routes_(pools_) {
    set_log_sink([](const LogLine&) {});
    fuzz::learn_all(pools_, memory_);
    UniqueFd listener = unix_socket();
    address_.sun_family = AF_UNIX;
    length_ = sizeof address_.sun_family;  // the kernel chooses a name
    must(bind(listener.get(), reinterpret_cast<sockaddr*>(&address_), length_) == 0, "bind");
    length_ = sizeof address_;
    getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address_), &length_);
    must(listen(listener.get(), 8) == 0, "listen");
    endpoint_.emplace(
        loop_, std::move(listener),
        Endpoint::Calls{[this](const HttpCall& call, uint32_t id) { return reply(call, id); },
                        [this](const Peer&) { return entitled_; }});
  }

  void meet(std::string_view input) {
    entitled_ = input.size() % 2 == 0;  // else it waits for its turn
    UniqueFd client = unix_socket();
    must(connect(client.get(), reinterpret_cast<sockaddr*>(&address_), length_) == 0, "connect");
    std::string out;
    for (char c : input) {
      if (c > '\2' || c < '\0') {
        out += c;
        continue;
      }
      if (c == '\1') out.append(60 * 1024, 'x');
      push(client.get(), out);
      if (c == '\2') answer_all();
    }
    push(client.get(), out);
    client.reset();
    work();
    answer_all();
    work();
  }

 private:
  std::optional<HttpReply> reply(const HttpCall& call, uint32_t id) {
    Routes::Outcome outcome = routes_.respond(call);
    if (auto* now = std::get_if<HttpReply>(&outcome)) return std::move(*now);
    waiting_.emplace_back(id, std::get<Request>(outcome));
    return std::nullopt;
  }

  void answer_all() {
    for (auto& [id, request] : std::exchange(waiting_, {})) {
      Answer answer;
      answer.status = 200;
      endpoint_->answer(id, routes_.conclude(request, answer));
    }
  }

  // Both sides in turn, until neither has anything to do.
  void push(int client, std::string& out) {
    size_t sent = 0;
    for (int idle = 0; idle < 3; ++idle) {
      ssize_t n = send(client, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
      if (n > 0) sent += static_cast<size_t>(n), idle = 0;
      loop_.turn(false);
      char in[16 * 1024];
      if (recv(client, in, sizeof in, 0) > 0) idle = 0;
    }
    out.clear();
  }

  void work() {
    for (int i = 0; i < 3; ++i) loop_.turn(false);
  }

  fuzz::Memory memory_;
  Pools pools_;
  Routes routes_;
  EventLoop loop_;
  bool entitled_ = true;
  sockaddr_un address_{};
  socklen_t length_;
  std::vector<std::pair<uint32_t, Request>> waiting_;
  std::optional<Endpoint> endpoint_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* world = new World;
  world->meet(fuzz::text_of(data, size));
  return 0;
}
