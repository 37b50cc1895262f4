#include "ipc/supervisor_args.h"

#include <charconv>
#include <stdexcept>
#include <string_view>

namespace preforkd {
namespace {

// What the command line has of them: "--generation=7", "--folder=/usr/lib/preforkd", "--on-trial".
constexpr struct {
  std::string_view name;
  uint32_t SupervisorArgs::*member;
} kNumbers[] = {
    {"--generation=", &SupervisorArgs::generation},
    {"--capacity=", &SupervisorArgs::capacity},
    {"--listen-sockets=", &SupervisorArgs::listen_sockets},
    {"--own-sockets=", &SupervisorArgs::own_sockets},
    {"--first-workers=", &SupervisorArgs::first_workers},
    {"--log-level=", &SupervisorArgs::log_level},
};
constexpr struct {
  std::string_view name;
  std::string SupervisorArgs::*member;
} kTexts[] = {
    {"--folder=", &SupervisorArgs::folder},
    {"--library=", &SupervisorArgs::library},
};
constexpr std::string_view kCheck = "--check", kTryOut = "--try-out", kOnTrial = "--on-trial",
                           kProtocol = "--protocol=";

bool take(std::string_view argument, SupervisorArgs& args) {
  for (const auto& [name, member] : kNumbers) {
    if (!argument.starts_with(name)) continue;
    argument.remove_prefix(name.size());
    const char* end = argument.data() + argument.size();
    const auto [read, error] = std::from_chars(argument.data(), end, args.*member);
    return error == std::errc{} && read == end;
  }
  for (const auto& [name, member] : kTexts) {
    if (!argument.starts_with(name)) continue;
    args.*member = argument.substr(name.size());
    return true;
  }
  args.check |= argument == kCheck;
  args.try_out |= argument == kTryOut;
  args.on_trial |= argument == kOnTrial;
  // (At the protocol expect_protocol() has looked.)
  return argument == kCheck || argument == kTryOut || argument == kOnTrial ||
         argument.starts_with(kProtocol);
}

}  // namespace

std::vector<std::string> SupervisorArgs::to_argv(const std::string& title,
                                                 const std::string& protocol) const {
  std::vector<std::string> argv = {title, protocol};
  if (check) argv.emplace_back(kCheck);
  if (try_out) argv.emplace_back(kTryOut);
  if (check && !try_out) return argv;
  for (const auto& [name, member] : kNumbers)
    argv.push_back(std::string(name) + std::to_string(this->*member));
  for (const auto& [name, member] : kTexts) argv.push_back(std::string(name) + this->*member);
  if (on_trial) argv.emplace_back(kOnTrial);
  return argv;
}

SupervisorArgs SupervisorArgs::from_argv(int argc, char** argv) {
  SupervisorArgs args;
  bool is_good = true;
  for (int i = 1; i < argc; ++i) is_good &= take(argv[i], args);
  is_good &= args.check || (args.capacity > 0 && args.listen_sockets > 0);
  if (!is_good) throw std::runtime_error("preforkd-supervisor is started by preforkd, not by hand");
  return args;
}

}  // namespace preforkd
