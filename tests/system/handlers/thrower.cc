// thrower: a handler that throws wherever it can. Settings: preload: true: there; start_while: a path: in `start` as
// long as that exists; stop: true: there. Each line of a client is an order:
//
//   pid            its pid                     runtime TEXT  throws a std::runtime_error
//   int            throws 1                    memory        throws a std::bad_alloc
//   wait           throws TimedOut, soon
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <preforkd/handler.hpp>

namespace {

class Thrower : public preforkd::Handler {
 public:
  void preload(const preforkd::Host& host) override {
    settings_ = nlohmann::json::parse(host.settings());
    if (settings_.value("preload", false)) throw std::runtime_error("a fine day to throw");
  }
  void start() override {
    if (access(settings_.value("start_while", "").c_str(), F_OK) == 0)
      throw std::runtime_error("it is too early");
  }
  void serve(preforkd::Stream& stream) override {
    while (auto line = stream.read_line(100)) {
      const std::string order(*line);
      if (order.starts_with("runtime ")) throw std::runtime_error(order.substr(8));
      if (order == "int") throw 1;
      if (order == "memory") throw std::bad_alloc();
      if (order == "wait") stream.set_deadline(std::chrono::milliseconds(10));
      if (order == "pid") stream.write_all(std::to_string(getpid()) + "\n");
    }
  }
  void stop() override {
    if (settings_.value("stop", false)) throw std::runtime_error("parting is such sweet sorrow");
  }

 private:
  nlohmann::json settings_;
};

}  // namespace

PREFORKD_REGISTER(Thrower);
