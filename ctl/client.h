// The asking end of the control socket: HTTP over a Unix socket. Used by preforkctl, a
// process of its own that may run as any user. Nothing that comes back is trusted: an answer has a
// size limit, and is text until somebody has parsed it.
#pragma once

#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace preforkd {

// Nobody listens on any of the sockets: one complete line for each that was tried.
class NoDaemon : public std::runtime_error {
 public:
  explicit NoDaemon(const std::vector<std::string>& lines);
};

// Where a daemon's socket may be, the likeliest first. The same order as the daemon's own choice of
// its runtime directory; and then, as its socket is there for everybody to read, root's.
using GetVariable = std::function<const char*(const char* name)>;
std::vector<std::string> usual_sockets(unsigned uid, const GetVariable& variable);

class Client {
 public:
  static constexpr size_t kMaxAnswer = 64 * 1024 * 1024;

  // The first of the sockets that accepts a connection is the daemon's.
  explicit Client(std::vector<std::string> sockets) : sockets_(std::move(sockets)) {}

  // For so long a question is asked again that was turned away, or not answered by a control that ended: if
  // it was not heard, or if hearing it twice does no harm (see may_ask_again() in client.cc).
  static constexpr Nanoseconds kPatience = 10 * kSecond;

  // What the daemon answered; throws NoDaemon, and std::runtime_error with its reason if it refused
  // or if there was no complete answer. A GET or a PATCH must be answered soon; a POST returns with
  // the verdict, however long that takes.
  std::string get(const std::string& path) const { return ask({"GET", path, {}}); }
  std::string patch(const std::string& path, const std::string& body) const {
    return ask({"PATCH", path, body});
  }
  std::string post(const std::string& path) const { return ask({"POST", path, {}}); }

  // As get(), for who can do without a daemon.
  std::optional<std::string> get_if_there(const std::string& path) const;

 private:
  struct Question {
    std::string method, path, body;
  };
  std::string ask(const Question& question) const;
  // Nothing where no socket accepts a connection: then why, a line for each.
  std::optional<std::string> try_ask(const Question& question,
                                     std::vector<std::string>& complaints) const;
  struct Outcome;
  Outcome ask_once(const Question& question, const std::string& socket, Nanoseconds deadline) const;

  std::vector<std::string> sockets_;
};

// "/v1/pools/NAME" and what follows it, with the name escaped.
std::string pool_path(std::string_view pool, std::string_view rest = "");

}  // namespace preforkd
