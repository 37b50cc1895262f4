// The stack of a traced process that stands in a system call: which of preforkd's functions called it. Of the tracer's
// thread alone.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

namespace preforkd::sweep {

struct Frame {
  std::string module;  // the file's name
  uint64_t offset;     // within it, of the return address

  bool operator<(const Frame& other) const {
    return std::tie(module, offset) < std::tie(other.module, other.offset);
  }
};

// What is mapped into a process, from its exec on; processes that it forks have the same.
class Image {
 public:
  explicit Image(pid_t pid);
  ~Image();
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  const std::string& program() const { return program_; }  // the name of the file that is executed
  const std::string& path() const { return path_; }

  // The frames within preforkd's programs, innermost first. Where there are none, those of libraries that call the
  // kernel on their own account (libmicrohttpd's threads); none at all: the loader's, or libc's before main.
  std::vector<Frame> frames(pid_t tid);

 private:
  struct Range {
    uint64_t from, to, base;
    std::string module;
  };
  struct Reading;
  friend struct Reading;
  void learn_mappings(pid_t pid);
  const Range* find(uint64_t address) const;
  const Range* find_or_learn(pid_t tid, uint64_t address);

  std::string program_, path_;
  std::vector<Range> ranges_;
  void* space_;  // libunwind's, with what it has learnt of these mappings
  std::unordered_map<uint64_t, std::vector<char>>
      pages_;  // of tables for unwinding: not written to
};

// Names of functions, by addr2line, in one go.
class Symbols {
 public:
  void add(const std::string& path, const std::vector<Frame>& frames);
  void resolve();
  std::string text(const std::vector<Frame>& frames) const;

 private:
  std::map<std::string, std::string> paths_;
  std::map<Frame, std::string> names_;
};

}  // namespace preforkd::sweep
