// answers: a handler that answers before it has read anything, and returns. Settings: how = "resets": with SO_LINGER of
// 0 s; "lingers": with SO_LINGER of 60 s, and 4 MB more that it does not wait for; "shuts": it shuts both directions down.
#include <sys/socket.h>
#include <preforkd/handler.hpp>

#include <nlohmann/json.hpp>
#include <string>

namespace {

constexpr char kAnswer[] =
    "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\nanswer\n";

struct Answers : preforkd::Handler {
  std::string how;

  void preload(const preforkd::Host& host) override {
    how = nlohmann::json::parse(host.settings()).value("how", "");
  }
  void serve(preforkd::Stream& stream) override {
    stream.write_all(kAnswer);
    const int fd = stream.fd();
    if (how == "resets") set_linger(fd, 0);
    if (how == "lingers") {
      set_linger(fd, 60);
      const std::string more(4 << 20, 'x');
      send(fd, more.data(), more.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (how == "shuts") shutdown(fd, SHUT_RDWR);
  }
  static void set_linger(int fd, int seconds) {
    const linger wish{1, seconds};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &wish, sizeof wish);
  }
};

}  // namespace

PREFORKD_REGISTER(Answers);
