#include "worker/program.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/networks.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

// Names that we set, or that would speak of another connection or of preforkd's own start.
constexpr std::string_view kOurs[] = {
    "PROTO",          "TCPLOCALIP",    "TCPLOCALPORT",   "TCPLOCALHOST",  "TCPREMOTEIP",
    "TCPREMOTEPORT",  "TCPREMOTEHOST", "TCPREMOTEINFO",  "UNIXLOCALPATH", "UNIXLOCALUID",
    "UNIXLOCALGID",   "UNIXLOCALPID",  "UNIXREMOTEPATH", "UNIXREMOTEPID", "UNIXREMOTEEUID",
    "UNIXREMOTEEGID", "REMOTE_ADDR",   "REMOTE_PORT",    "REMOTE_HOST",   "NOTIFY_SOCKET",
    "WATCHDOG_PID",   "WATCHDOG_USEC", "LISTEN_PID",     "LISTEN_FDS",    "LISTEN_FDNAMES"};

constexpr size_t kOfConnection = 8;  // variables of connection_environment()

struct HostAndPort {
  std::string host, port;
};

// An IPv4 client of a socket that takes both is shown as what it is.
HostAndPort split(const SocketAddress& address) {
  const auto ip = ip_of(address);
  const auto* in =
      reinterpret_cast<const sockaddr_in*>(&address.storage);  // IPv6 has its port there, too
  return {ip ? to_string(*ip) : "", std::to_string(ntohs(in->sin_port))};
}

std::vector<char*> pointers(const std::vector<std::string>& strings, size_t room) {
  std::vector<char*> p;
  p.reserve(strings.size() + room);
  for (const auto& s : strings) p.push_back(const_cast<char*>(s.c_str()));
  p.resize(strings.size() + room);
  return p;
}

// A program starts with no signal blocked, ignored or pending. Caught ones go back to their defaults at the
// exec by themselves; ignored ones would stay ignored, those too that whoever started the daemon had ignored
// (nohup: SIGHUP; posix_spawn, which make uses: 32 and 33, which signal(2) of glibc does not touch).
// Pending ones would be delivered: setting one to ignored throws it away.
void reset_signals(int nudge_signal, const std::vector<int>& ignored) {
  for (int ours : {SIGUSR1, SIGUSR2, nudge_signal}) {
    signal(ours, SIG_IGN);
    set_to_default(ours);
  }
  for (int each : ignored) set_to_default(each);
  block_exactly(0);
}

std::vector<int> ignored_signals() {
  std::vector<int> ignored;
  for (int each = 1; each < NSIG; ++each)
    if (is_ignored(each)) ignored.push_back(each);
  return ignored;
}

// close_range(2) came with Linux 5.9, but a seccomp filter may not know it.
void leave_only_standard_descriptors() {
  if (syscall(SYS_close_range, 3u, ~0u, 0u) == 0) return;
  for (int fd = 3; fd < static_cast<int>(sysconf(_SC_OPEN_MAX)); ++fd) close(fd);
}

}  // namespace

std::vector<std::string> connection_environment(const SocketAddress& local,
                                                const SocketAddress& peer, const ucred& unix_peer) {
  if (local.storage.ss_family == AF_UNIX) {
    std::string path = to_string(local).substr(std::strlen("unix:"));
    return {"PROTO=UNIX", "UNIXLOCALPATH=" + path, "UNIXREMOTEPID=" + std::to_string(unix_peer.pid),
            "UNIXREMOTEEUID=" + std::to_string(unix_peer.uid),
            "UNIXREMOTEEGID=" + std::to_string(unix_peer.gid)};
  }
  HostAndPort l = split(local), r = split(peer);
  return {"PROTO=TCP",
          "TCPLOCALIP=" + l.host,
          "TCPLOCALPORT=" + l.port,
          "TCPREMOTEIP=" + r.host,
          "TCPREMOTEPORT=" + r.port,
          "REMOTE_ADDR=" + r.host,
          "REMOTE_PORT=" + r.port,
          "REMOTE_HOST=" + r.host};
}

std::string program_trouble(const std::vector<std::string>& argv) {
  struct stat s {};
  auto trouble = [&](const char* reason) { return "execute " + argv[0] + ": " + reason; };
  if (stat(argv[0].c_str(), &s) < 0) return trouble(std::strerror(errno));
  if (!S_ISREG(s.st_mode)) return trouble("not a regular file");
  if (faccessat(AT_FDCWD, argv[0].c_str(), X_OK, AT_EACCESS) < 0)
    return trouble(std::strerror(errno));
  return "";
}

Program::Program(const std::vector<std::string>& argv) : argv_(argv), ignored_(ignored_signals()) {
  for (char** e = environ; *e; ++e) {
    std::string_view entry = *e, name = entry.substr(0, entry.find('='));
    if (std::find(std::begin(kOurs), std::end(kOurs), name) == std::end(kOurs))
      environment_.emplace_back(entry);
  }
  argv_pointers_ = pointers(argv_, 1);
  environment_pointers_ = pointers(environment_, kOfConnection + 1);
}

std::string Program::become(const Accepted& connection, int nudge_signal) const {
  ucred unix_peer{};
  socklen_t size = sizeof unix_peer;
  if (connection.local.storage.ss_family == AF_UNIX)
    getsockopt(connection.fd.get(), SOL_SOCKET, SO_PEERCRED, &unix_peer, &size);

  // The fewer pages are written here, the fewer are copied between accept and exec.
  const auto own = connection_environment(connection.local, connection.peer, unix_peer);
  char* const* argv = argv_pointers_.data();
  char** envp = const_cast<char**>(environment_pointers_.data());
  for (size_t i = 0; i < std::min(own.size(), kOfConnection); ++i)
    envp[environment_.size() + i] = const_cast<char*>(own[i].c_str());

  dup2(connection.fd.get(), 0);
  dup2(connection.fd.get(), 1);
  leave_only_standard_descriptors();
  reset_signals(nudge_signal, ignored_);
  execve(argv[0], argv, envp);
  return "execute " + argv_[0] + ": " + std::strerror(errno);
}

}  // namespace preforkd
