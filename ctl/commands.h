// What preforkctl can be told to do: one table, from which the parsing, the help and the completion
// come. A command takes its arguments, asks the daemon, and returns the text for standard output.
#pragma once

#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ctl/client.h"
#include "ctl/tables.h"

namespace preforkd {

// The command line is not one that can be carried out: nothing was asked of any daemon.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Arguments {
  std::vector<std::string> words = {};          // what follows the command's name
  bool json = false;                            // --json
  std::optional<std::string> for_seconds = {};  // --for
};

struct Command {
  const char* name;
  const char* synopsis;  // of the arguments
  size_t least, most;    // how many words it takes
  const char* summary;   // one line
  const char* details;   // what `preforkctl COMMAND --help` adds
  std::string (*run)(const Arguments& arguments, const Client& client);
  bool sets_limits = false;  // takes --for; its help lists the limits
};

std::span<const Command> commands();

const Command& find_command(std::string_view name);  // throws UsageError
// Throws UsageError if they are too few, too many, or not for this command.
void check_arguments(const Command& command, const Arguments& arguments);

std::string help();                        // preforkctl --help
std::string help(const Command& command);  // preforkctl COMMAND --help

// "KEY=VALUE" words and --for, as the body of PATCH /v1/pools/NAME/limits. Throws UsageError.
Json limits_body(std::span<const std::string> pairs, const std::optional<std::string>& for_seconds);

}  // namespace preforkd
