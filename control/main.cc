// preforkd-control: shows what the pools do, and carries wishes to the daemon. Started by the daemon,
// never by hand, already as an unprivileged user, with these descriptors and no other:
//
//   0, 1   nothing     2   the log
//   3      a SOCK_SEQPACKET channel to the daemon (base/messages.h: "daemon and control")
//   4      a socket that listens: the control socket, or with --web a TCP one
//
// It ends when the channel does; a terminal's ^C reaches it too, but that is for the daemon to judge.
// With --web it offers reading alone, and has no way to ask for a change. (It does not look at Host: a
// page elsewhere that rebinds its name to this address can read the figures, and so can whoever can
// connect. No CORS header is ever sent.)
#include <fcntl.h>
#include <signal.h>

#include <cstdio>
#include <exception>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "control/daemon_link.h"
#include "control/endpoint.h"
#include "control/sampler.h"

namespace preforkd {
namespace {

constexpr int kChannel = 3;
constexpr int kListener = 4;

struct Options {
  bool web = false;
  LogLevel level = LogLevel::kInfo;
};

std::optional<Options> parse_options(int argc, char** argv) {
  constexpr std::string_view kLevel = "--log-level=";
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string_view argument = argv[i];
    if (argument == "--web") {
      options.web = true;
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
  return error_reply(503, "the daemon is busy: try again");
}

int run(const Options& options) {
  set_log_level(options.level);
  ignore_signals();
  UniqueFd channel = inherited(kChannel);
  UniqueFd listener = inherited(kListener);
  int exit_code = 0;

  EventLoop loop;
  Pools pools;
  Sampler sampler(loop, pools);
  Routes routes(pools, options.web);
  DaemonLink link(loop, std::move(channel), pools, options.web);
  // Opened when there is something to tell: who asks before that waits in the socket's queue, and is not
  // told of a daemon without pools.
  std::optional<Endpoint> endpoint;
  auto open_endpoint = [&] {
    endpoint.emplace(loop, std::move(listener), [&](const HttpCall& call, uint32_t id) {
      return reply_now(routes, link, call, id);
    });
  };
  link.start({.on_news =
                  [&] {
                    sampler.follow_news();
                    if (!endpoint && pools.complete()) open_endpoint();
                  },
              .on_answer =
                  [&](const Request& asked, const Answer& answer) {
                    endpoint->answer(answer.id, routes.conclude(asked, answer));
                  },
              .on_end =
                  [&](bool in_order) {
                    if (!in_order) {
                      log_error("read the daemon's news: not a message of this version");
                      exit_code = static_cast<int>(ExitCode::kInternal);
                    }
                    loop.stop();
                  }});
  loop.run();
  return exit_code;
}

}  // namespace
}  // namespace preforkd

int main(int argc, char** argv) {
  using namespace preforkd;
  auto options = parse_options(argc, argv);
  if (!options) {
    log_error(
        "preforkd-control is started by preforkd: preforkd-control [--web] [--log-level=LEVEL]");
    return static_cast<int>(ExitCode::kUsage);
  }
  try {
    return run(*options);
  } catch (const SysError& error) {
    log_error(std::string("control: ") + error.what());
    return static_cast<int>(ExitCode::kSystem);
  } catch (const std::exception& error) {
    log_error(std::string("control: ") + error.what());
    return static_cast<int>(ExitCode::kInternal);
  }
}
