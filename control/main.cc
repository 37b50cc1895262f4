// preforkd-control: shows what the pools do, and carries wishes to the daemon. Started by the daemon,
// never by hand, already as an unprivileged user, with these descriptors and no other:
//
//   0   nothing     1, 2   a pipe to preforkd-log
//   3      a channel from the daemon (ipc/control_messages.h)
//   4      a pipe to it
//   5      a socket that listens: the control socket, or with --web a TCP one
//
// It ends when the channel does; a terminal's ^C reaches it too, but that is for the daemon to judge.
// With --web it offers reading alone, and has no way to ask for a change; whoever can connect can read, but no
// page of elsewhere: it looks at Host (host.h), where --host=NAME adds a name, and no CORS header is ever sent.
#include <fcntl.h>
#include <signal.h>

#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/surroundings.h"
#include "base/undumpable.h"
#include "control/daemon_link.h"
#include "control/endpoint.h"
#include "control/sampler.h"
#include "ipc/protocol.h"
#include "shm/layout.h"

namespace preforkd {
namespace {

constexpr int kNews = 3;
constexpr int kRequests = 4;
constexpr int kListener = 5;

struct Options {
  bool web = false;
  std::vector<std::string> hosts;  // of --web
  LogLevel level = LogLevel::kInfo;
};

std::optional<Options> parse_options(int argc, char** argv) {
  constexpr std::string_view kLevel = "--log-level=", kHost = "--host=";
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string_view argument = argv[i];
    if (is_protocol_option(argument)) {
      continue;
    } else if (argument == "--web") {
      options.web = true;
    } else if (argument.starts_with(kHost)) {
      options.hosts.emplace_back(argument.substr(kHost.size()));
    } else if (!argument.starts_with(kLevel) ||
               !log_level_from_name(argument.substr(kLevel.size()), options.level)) {
      return std::nullopt;
    }
  }
  return options;
}

void ignore_signals() {
  for (int signal : {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
}

UniqueFd inherited(int fd) {
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
    throw SysError("use descriptor " + std::to_string(fd) + ", which only the daemon can give",
                   errno);
  return UniqueFd(fd);
}

// What a client gets at once; nothing if the daemon has to be asked.
std::optional<HttpReply> reply_now(Routes& routes, DaemonLink& link, const HttpCall& call,
                                   uint32_t id) {
  Routes::Outcome outcome = routes.respond(call);
  if (auto* reply = std::get_if<HttpReply>(&outcome)) return std::move(*reply);
  auto& request = std::get<Request>(outcome);
  request.id = id;
  if (link.ask(request)) return std::nullopt;
  HttpReply busy = error_reply(503, "the daemon is busy: try again");
  busy.again = true;
  return busy;
}

// Control's parts, and what each hears of the others.
class Control {
 public:
  // Takes what it has inherited before it opens anything, which could get those numbers.
  explicit Control(const Options& options)
      : news_(inherited(kNews)),
        requests_(inherited(kRequests)),
        listener_(inherited(kListener)),
        sampler_(loop_, pools_),
        routes_(options.web ? Routes(pools_, options.hosts) : Routes(pools_)),
        link_(loop_, std::move(news_), std::move(requests_), pools_, options.web) {}

  int run() {
    link_.start({.on_news = [this] { on_news(); },
                 .on_answer =
                     [this](const Request& asked, const Answer& answer) {
                       endpoint_->answer(answer.id, routes_.conclude(asked, answer));
                     },
                 .on_end = [this](bool in_order) { end(in_order); },
                 // Before it is open, somebody may wait.
                 .clients = [this] { return endpoint_ ? endpoint_->clients() : 1u; }});
    loop_.run();
    return exit_code_;
  }

 private:
  void on_news() {
    sampler_.follow_news();
    routes_.follow_news();
    if (!endpoint_ && pools_.complete()) open_endpoint();
  }

  // When there is something to tell: who asks before that waits in the socket's queue, and is not
  // told of a daemon without pools.
  void open_endpoint() {
    endpoint_.emplace(
        loop_, std::move(listener_),
        Endpoint::Calls{
            .on_call = [this](const HttpCall& call,
                              uint32_t id) { return reply_now(routes_, link_, call, id); },
            .is_entitled = [this](const Peer& peer) { return may_change(peer, pools_.daemon()); }});
  }

  void end(bool in_order) {
    if (!in_order) {
      log_error("read the daemon's news: not a message of this version");
      exit_code_ = static_cast<int>(ExitCode::kInternal);
    }
    loop_.stop();
  }

  UniqueFd news_, requests_, listener_;  // before who gets them is made
  EventLoop loop_;
  Pools pools_;
  Sampler sampler_;
  Routes routes_;
  DaemonLink link_;
  std::optional<Endpoint> endpoint_;
  int exit_code_ = 0;
};

}  // namespace
}  // namespace preforkd

int main(int argc, char** argv) {
  using namespace preforkd;
  become_undumpable();
  put_surroundings_right();
  expect_protocol(argc, argv, shm::kLayoutVersion);
  set_log_sink(log_to_pipe);
  auto options = parse_options(argc, argv);
  if (!options) {
    log_error(
        "preforkd-control is started by preforkd: preforkd-control [--web [--host=NAME]...] "
        "[--log-level=LEVEL]");
    return static_cast<int>(ExitCode::kUsage);
  }
  try {
    set_log_level(options->level);
    ignore_signals();
    return Control(*options).run();
  } catch (const SysError& error) {
    log_error(std::string("control: ") + error.what());
    return static_cast<int>(ExitCode::kSystem);
  } catch (const std::exception& error) {
    log_error(std::string("control: ") + error.what());
    return static_cast<int>(ExitCode::kInternal);
  }
}
