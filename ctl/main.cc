// preforkctl: asks a running preforkd, and tells it what to do, over its control socket.
//
//   commands.h  what can be said (a table), and how
//   client.h    the conversation: HTTP over a Unix socket
//   tables.h    the answers as a person reads them

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/version.h"
#include "ctl/client.h"
#include "ctl/commands.h"
#include "ctl/format.h"

namespace preforkd {
namespace {

enum Exit : int { kDone = 0, kRefused = 1, kWrongUsage = 2, kNoDaemon = 3 };

struct CommandLine {
  std::string command;
  Arguments arguments;
  std::string socket;  // "": look for it
  bool help = false;
  bool version = false;
};

// Options may stand anywhere; what is left is the command and its words.
CommandLine parse_command_line(int argc, char** argv) {
  enum : int { kSocket = 256, kJson, kFor, kVersionOption };
  constexpr option kOptions[] = {
      {"socket", required_argument, nullptr, kSocket},   {"json", no_argument, nullptr, kJson},
      {"for", required_argument, nullptr, kFor},         {"help", no_argument, nullptr, 'h'},
      {"version", no_argument, nullptr, kVersionOption}, {nullptr, 0, nullptr, 0}};
  CommandLine line;
  // optopt is a character for a short option only.
  auto offender = [&] {
    bool is_short = optopt > 0 && optopt < kSocket;
    return is_short ? std::string{'-', static_cast<char>(optopt)} : std::string(argv[optind - 1]);
  };
  for (int c; (c = getopt_long(argc, argv, ":h", kOptions, nullptr)) != -1;) {
    switch (c) {
      case kSocket:
        line.socket = optarg;
        break;
      case kJson:
        line.arguments.json = true;
        break;
      case kFor:
        line.arguments.for_seconds = optarg;
        break;
      case 'h':
        line.help = true;
        break;
      case kVersionOption:
        line.version = true;
        break;
      case ':':
        throw UsageError(offender() + ": expected a value after it");
      default:
        throw UsageError(offender() + ": not an option, or not one that takes a value");
    }
    if (c == kSocket && line.socket.empty()) throw UsageError("--socket: expected a path");
  }
  std::vector<std::string> words(argv + optind, argv + argc);
  if (words.empty()) return line;
  line.command = words.front();
  line.arguments.words.assign(words.begin() + 1, words.end());
  return line;
}

std::vector<std::string> sockets_to_try(const CommandLine& line) {
  const char* given = std::getenv("PREFORKD_SOCKET");
  if (!line.socket.empty()) return {line.socket};
  if (given && *given) return {given};
  return usual_sockets(geteuid(), [](const char* name) { return std::getenv(name); });
}

std::string carry_out(const CommandLine& line) {
  if (line.version) return std::string("preforkctl ") + kVersion + '\n';
  if (line.command.empty()) {
    if (line.help) return help();
    throw UsageError("expected a command");
  }
  const Command& command = find_command(line.command);
  if (line.help) return help(command);
  check_arguments(command, line.arguments);
  return command.run(line.arguments, Client(sockets_to_try(line)));
}

// A closed standard descriptor would be given to the next socket, and our output to the daemon.
// Opened like this, reading or writing the wrong way fails as it would have.
void occupy_standard_descriptors() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(fd, F_GETFD) < 0) open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {  // a terminal that another program left non-blocking
      pollfd writable{fd, POLLOUT, 0};
      poll(&writable, 1, -1);
      continue;
    }
    if (n < 0) throw SysError("write the output", errno);
    text.remove_prefix(static_cast<size_t>(n));
  }
}

int complain(Exit code, std::string_view reason) {
  std::string text;
  while (!reason.empty()) {
    std::string_view line = reason.substr(0, reason.find('\n'));
    reason.remove_prefix(std::min(reason.size(), line.size() + 1));
    text += "preforkctl: " + printable(line) + '\n';
  }
  if (code == kWrongUsage) text += "Try 'preforkctl --help'.\n";
  try {
    write_all(STDERR_FILENO, text);
  } catch (const SysError&) {
    // Nobody to tell; the exit code says it.
  }
  return code;
}

int run(int argc, char** argv) {
  try {
    write_all(STDOUT_FILENO, carry_out(parse_command_line(argc, argv)));
    return kDone;
  } catch (const UsageError& e) {
    return complain(kWrongUsage, e.what());
  } catch (const NoDaemon& e) {
    return complain(kNoDaemon, e.what());
  } catch (const std::exception& e) {
    return complain(kRefused, e.what());
  }
}

}  // namespace
}  // namespace preforkd

int main(int argc, char** argv) {
  preforkd::occupy_standard_descriptors();
  signal(SIGPIPE, SIG_IGN);  // a reader that went away is an error like any other: see write_all()
  return preforkd::run(argc, argv);
}
