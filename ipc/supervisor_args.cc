#include "ipc/supervisor_args.h"

#include <getopt.h>

#include <cstdlib>
#include <stdexcept>

namespace preforkd {

std::vector<std::string> SupervisorArgs::to_argv(const std::string& title,
                                                 const std::string& protocol) const {
  if (check) return {title, protocol, "--check"};
  std::vector<std::string> argv = {title,
                                   protocol,
                                   "--generation=" + std::to_string(generation),
                                   "--capacity=" + std::to_string(capacity),
                                   "--listen-sockets=" + std::to_string(listen_sockets),
                                   "--own-sockets=" + std::to_string(own_sockets),
                                   "--first-workers=" + std::to_string(first_workers),
                                   "--log-level=" + std::to_string(log_level),
                                   "--folder=" + folder,
                                   "--library=" + library};
  if (on_trial) argv.emplace_back("--on-trial");
  return argv;
}

SupervisorArgs SupervisorArgs::from_argv(int argc, char** argv) {
  static const option kOptions[] = {{"check", no_argument, nullptr, 'k'},
                                    {"generation", required_argument, nullptr, 'g'},
                                    {"capacity", required_argument, nullptr, 'c'},
                                    {"listen-sockets", required_argument, nullptr, 'n'},
                                    {"own-sockets", required_argument, nullptr, 'o'},
                                    {"first-workers", required_argument, nullptr, 'f'},
                                    {"on-trial", no_argument, nullptr, 't'},
                                    {"log-level", required_argument, nullptr, 'l'},
                                    {"folder", required_argument, nullptr, 'd'},
                                    {"library", required_argument, nullptr, 'b'},
                                    {"protocol", required_argument, nullptr, 'p'},
                                    {}};
  SupervisorArgs args;
  auto number = [] { return static_cast<uint32_t>(std::strtoul(optarg, nullptr, 10)); };
  opterr = 0;
  for (int o; (o = getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
    switch (o) {
      case 'k':
        args.check = true;
        break;
      case 'g':
        args.generation = number();
        break;
      case 'c':
        args.capacity = number();
        break;
      case 'n':
        args.listen_sockets = number();
        break;
      case 'o':
        args.own_sockets = number();
        break;
      case 'f':
        args.first_workers = number();
        break;
      case 't':
        args.on_trial = true;
        break;
      case 'l':
        args.log_level = static_cast<int>(number());
        break;
      case 'd':
        args.folder = optarg;
        break;
      case 'b':
        args.library = optarg;
        break;
      case 'p':  // expect_protocol() has looked at it
        break;
      default:
        throw std::runtime_error("preforkd-supervisor is started by preforkd, not by hand");
    }
  }
  if (!args.check && (args.capacity == 0 || args.listen_sockets == 0))
    throw std::runtime_error("preforkd-supervisor is started by preforkd, not by hand");
  return args;
}

}  // namespace preforkd
