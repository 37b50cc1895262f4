// How failure is told. What was asked could not be done: throw SysError("bind 127.0.0.1:7007",
// errno), or ConfigError with every line of complaint. What happens every minute (EAGAIN, end of
// file, a child's death) is a return value. Caught in main, in a reload, in one control request and
// in a worker's main, and nowhere else.
#pragma once

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace preforkd {

// The exit codes a user sees; the numbers are those of <sysexits.h>.
enum class ExitCode : int { kOk = 0, kUsage = 64, kInternal = 70, kSystem = 71, kConfig = 78 };

// A system call that refused: "verb object: reason".
class SysError : public std::runtime_error {
 public:
  SysError(const std::string& what, int error)
      : std::runtime_error(what + ": " + std::strerror(error)), error_(error) {}
  int error() const { return error_; }

 private:
  int error_;
};

// What keeps from doing it just now, and may pass: no descriptor, or no memory, to be had.
inline bool lacks_room(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

// A configuration that cannot be used: one complete message a line.
class ConfigError : public std::runtime_error {
 public:
  explicit ConfigError(std::vector<std::string> lines)
      : std::runtime_error(lines.empty() ? "configuration error" : lines.front()),
        lines_(std::move(lines)) {}
  explicit ConfigError(std::string line) : ConfigError(std::vector<std::string>{std::move(line)}) {}
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  std::vector<std::string> lines_;
};

}  // namespace preforkd
