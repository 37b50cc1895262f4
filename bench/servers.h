// The servers that are measured: preforkd itself on a configuration of its own, the reference
// without a pool, and, where it is installed, Apache's prefork. Each runs on a free port of
// 127.0.0.1, keeps its files in a temporary folder, and is gone with its object.
#pragma once

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "bench/child.h"
#include "bench/loopback.h"
#include "bench/procfs.h"
#include "bench/wait.h"

namespace preforkd::bench {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = "/tmp/preforkd-bench-XXXXXX";
    if (!mkdtemp(pattern.data())) throw SysError("mkdtemp " + pattern, errno);
    path_ = pattern;
    chmod(pattern.c_str(), 0755);  // the servers change to a user that must get in
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string path() const { return path_; }

 private:
  std::string path_;
};

// The log of a server. Shown when the benchmark fails, the server's own failure to start included.
struct ShownOnFailure {
  std::string path;
  ~ShownOnFailure() {
    if (std::uncaught_exceptions() == 0 || interrupt_received) return;
    std::ifstream file(path);
    std::cerr << "--- " << path << "\n"
              << std::string(std::istreambuf_iterator<char>(file), {}) << "---\n";
  }
};

struct PoolShape {
  int min, max;
  double shrink_after = 2;
  int min_spare = 2, max_spare = 8;
  std::string handler = "echo", settings = "";
  std::string program = "";  // instead of the handler
  std::string serve = "";  // or this: a program that accepts by itself, quoted, with its arguments
  std::string more = "";   // other keys of the pool
};

class Preforkd {
 public:
  Preforkd(const std::string& build, const PoolShape& shape)
      : build_(build),
        min_(shape.min),
        log_{folder_.file("log")},
        child_({build + "/preforkd", "-c", write_configuration(shape), "--runtime-dir",
                folder_.path()},
               log_.path) {
    wait_until("preforkd runs", 15, [&] {
      if (child_.has_ended()) throw std::runtime_error("preforkd ended at its start");
      return answers() && !ask({"status"}).at("pools").empty();
    });
    wait_at_min(15);
    std::string listen = pool().at("listen").at(0);
    port_ = listen.substr(listen.rfind(':') + 1);
  }

  const std::string& port() const { return port_; }
  pid_t pid() const { return child_.pid(); }

  nlohmann::json pool() { return ask({"status"}).at("pools").at(0); }
  std::vector<pid_t> workers() {
    nlohmann::json answer = ask({"workers", "echo"});
    std::vector<pid_t> pids;
    for (const nlohmann::json& worker : answer.is_array() ? answer : answer.at("workers"))
      pids.push_back(worker.at("pid").get<pid_t>());
    return pids;
  }

  // Until the pool is idle with its fewest workers; in seconds.
  double wait_at_min(double deadline) {
    return wait_until("the pool is idle at its minimum", deadline, [&] {
      nlohmann::json workers = pool().at("workers");
      return workers.at("total") == min_ && workers.at("idle") == min_;
    });
  }

 private:
  static std::string served_by(const PoolShape& shape) {
    if (!shape.serve.empty()) return "serve = [ " + shape.serve + " ]";
    if (!shape.program.empty()) return "program = [ \"" + shape.program + "\" ]";
    return "handler = \"" + shape.handler + "\"";
  }

  std::string write_configuration(const PoolShape& shape) {
    std::string path = folder_.file("preforkd.conf");
    std::ofstream(path) << "control = { web = \"127.0.0.1:0\"; };\n"
                        << "pools = ( { name = \"echo\"; listen = [ \"127.0.0.1:0\" ]; "
                        << served_by(shape) << "; settings = { " << shape.settings << " };\n"
                        << "  workers = { min = " << shape.min << "; max = " << shape.max
                        << "; min_spare = " << shape.min_spare
                        << "; max_spare = " << shape.max_spare
                        << "; shrink_after = " << shape.shrink_after << "; };\n"
                        << shape.more << "} );\n";
    return path;
  }

  bool answers() const {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    folder_.file("control.sock").copy(address.sun_path, sizeof address.sun_path - 1);
    return connect(UniqueFd(fd).get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }

  nlohmann::json ask(const std::vector<std::string>& words) {
    if (child_.has_ended()) throw std::runtime_error("preforkd has ended");
    std::vector<std::string> argv{build_ + "/preforkctl", "--socket", folder_.file("control.sock"),
                                  "--json"};
    argv.insert(argv.end(), words.begin(), words.end());
    return nlohmann::json::parse(Child(argv).finish(10));
  }

  std::string build_;
  int min_;
  TemporaryFolder folder_;
  ShownOnFailure log_;  // after the folder and before the process: shown when the process is over
  Child child_;
  std::string port_;
};

class Bare {
 public:
  Bare(const std::string& build, int workers)
      : Bare({build + "/bench/bare", "serve", std::to_string(workers)}) {}
  // Any program that prints its port when it serves, and ends at TERM.
  explicit Bare(const std::vector<std::string>& argv) : child_(argv) {
    Figures figures = parse_figures(child_.read_line(10));
    port_ = std::to_string(static_cast<int>(figures.at("port")));
  }
  const std::string& port() const { return port_; }
  std::vector<pid_t> workers() const { return children_of(child_.pid()); }

 private:
  Child child_;
  std::string port_;
};

// For servers that cannot be given port 0: what the kernel chose for a moment is free for the next one too.
inline std::string free_port() {
  UniqueFd fd = tcp_socket();
  sockaddr_in address = loopback_address(INADDR_LOOPBACK, 0);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(fd.get(), generic, size) != 0 || getsockname(fd.get(), generic, &size) != 0)
    throw SysError("bind 127.0.0.1:0", errno);
  return std::to_string(ntohs(address.sin_port));
}

// Apache with mpm_prefork as it is without any setting of the pool (5 servers at the start, 5 to 10
// spare, at most 256). A connection that was answered is kept open, and keeps its process.
class Apache {
 public:
  static constexpr const char* kProgram = "/usr/sbin/apache2";
  static bool is_installed() { return std::filesystem::exists(kProgram); }

  Apache()
      : port_(free_port()),
        log_{folder_.file("error")},
        child_({kProgram, "-f", write_configuration(), "-D", "FOREGROUND"}, log_.path) {
    wait_until("apache2 runs", 15, [&] {
      if (child_.has_ended()) throw std::runtime_error("apache2 ended at its start");
      return children_of(child_.pid()).size() >= 5;
    });
  }
  const std::string& port() const { return port_; }
  pid_t pid() const { return child_.pid(); }

 private:
  std::string write_configuration() {
    std::string path = folder_.file("apache2.conf");
    std::ofstream(folder_.file("index.html")) << "hello\n";
    std::ofstream(path)
        << "ServerName localhost\nListen 127.0.0.1:" << port_ << "\n"
        << "LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so\n"
        << "LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n"
        << "LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so\n"
        << "PidFile " << folder_.file("pid") << "\n"
        << "ErrorLog " << log_.path << "\n"
        << "DefaultRuntimeDir " << folder_.path() << "\n"
        << "DocumentRoot " << folder_.path() << "\n"
        << "KeepAliveTimeout 600\n"
        << (geteuid() == 0 ? "User nobody\nGroup nogroup\n" : "");
    return path;
  }

  TemporaryFolder folder_;
  std::string port_;
  ShownOnFailure log_;
  Child child_;
};

// A process for each connection, forked when it comes. As many at once as ever come here, nothing looked up.
class Tcpserver {
 public:
  explicit Tcpserver(const std::string& program)
      : port_(free_port()),
        log_{folder_.file("log")},
        child_({"/usr/bin/tcpserver", "-c", "1000", "-H", "-R", "-l", "0", "127.0.0.1", port_,
                program},
               log_.path) {
    wait_until("tcpserver listens", 15, [&] {
      if (child_.has_ended()) throw std::runtime_error("tcpserver ended at its start");
      UniqueFd fd = tcp_socket();
      return connect_to_loopback(fd.get(), static_cast<uint16_t>(std::stoi(port_))) == 0;
    });
  }
  const std::string& port() const { return port_; }

 private:
  TemporaryFolder folder_;
  std::string port_;
  ShownOnFailure log_;
  Child child_;
};

}  // namespace preforkd::bench
