#include "worker/program.h"

#include <alloca.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "base/exec_strings.h"
#include "base/program_environment.h"
#include "worker/executable.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

// Not literals: data a child has from its parent, but the page of the literals it would touch here first.
struct {
  char proto_tcp[16] = "PROTO=TCP", local_ip[16] = "TCPLOCALIP=", local_port[16] = "TCPLOCALPORT=",
       remote_ip[16] = "TCPREMOTEIP=", remote_addr[16] = "REMOTE_ADDR=",
       remote_host[16] = "REMOTE_HOST=", remote_port[16] = "TCPREMOTEPORT=",
       remote_port_too[16] = "REMOTE_PORT=";
} names;

// The four bytes of an IPv4 address; an IPv4 client of a socket that takes both is shown as what it is.
const uint8_t* ipv4_of(const SocketAddress& address) {
  if (address.storage.ss_family == AF_INET)
    return reinterpret_cast<const uint8_t*>(
        &reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr);
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr;
  return IN6_IS_ADDR_V4MAPPED(&v6) ? v6.s6_addr + 12 : nullptr;
}

// A program starts with no signal blocked, ignored or pending. Caught ones go back to their defaults at the
// exec by themselves; ignored ones would stay ignored, those too that whoever started the daemon had ignored
// (nohup: SIGHUP; posix_spawn, which make uses: 32 and 33, which signal(2) of glibc does not touch).
// Pending ones would be delivered: setting one to ignored throws it away.
void reset_signals(int nudge_signal, const std::vector<int>& ignored) {
  uint64_t pending = 0;
  system_call(SYS_rt_sigpending, &pending, kKernelSetSize);
  auto throw_away = [pending](int ours) {
    if (pending & signal_bit(ours)) throw_away_pending(ours);
  };
  throw_away(SIGUSR1);
  throw_away(SIGUSR2);
  throw_away(nudge_signal);
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
  if (system_call(SYS_close_range, 3, ~0u, 0) == 0) return;
  for (int fd = 3; fd < static_cast<int>(sysconf(_SC_OPEN_MAX)); ++fd) close(fd);
}

}  // namespace

ConnectionEnvironment::ConnectionEnvironment(const SocketAddress& local, const SocketAddress& peer,
                                             const ucred& unix_peer) {
  if (local.storage.ss_family == AF_UNIX) {
    begin("PROTO=UNIX");
    begin("UNIXLOCALPATH=");
    const auto& un = *reinterpret_cast<const sockaddr_un*>(&local.storage);
    const size_t length =
        local.length - std::min<size_t>(local.length, offsetof(sockaddr_un, sun_path));
    for (size_t i = 0; i < length && (i == 0 || un.sun_path[i]); ++i) {
      const char one[2] = {un.sun_path[i] ? un.sun_path[i] : '@', 0};  // of the abstract namespace
      add(one);
    }
    begin("UNIXREMOTEPID=");
    add_number(static_cast<uint64_t>(unix_peer.pid));
    begin("UNIXREMOTEEUID=");
    add_number(unix_peer.uid);
    begin("UNIXREMOTEEGID=");
    add_number(unix_peer.gid);
    return;
  }
  begin(names.proto_tcp);
  begin(names.local_ip);
  add_ip(local);
  begin(names.local_port);
  add_port(local);
  for (const char* name : {names.remote_ip, names.remote_addr, names.remote_host}) {
    begin(name);
    add_ip(peer);
  }
  for (const char* name : {names.remote_port, names.remote_port_too}) {
    begin(name);
    add_port(peer);
  }
}

void ConnectionEnvironment::begin(const char* name) {
  if (count_) ++used_;  // the end of the one before
  entries_[count_++] = text_ + used_;
  add(name);
}

void ConnectionEnvironment::add(const char* text) {
  volatile char* to = text_;  // byte by byte, and not by memcpy
  for (; *text && used_ + 1 < sizeof text_; ++text) to[used_++] = *text;
  to[used_] = 0;
}

void ConnectionEnvironment::add_number(uint64_t number) {
  char digits[24];
  char* first = digits + sizeof digits - 1;
  *first = 0;
  do *--first = static_cast<char>('0' + number % 10);
  while (number /= 10);
  add(first);
}

void ConnectionEnvironment::add_ip(const SocketAddress& address) {
  if (const uint8_t* v4 = ipv4_of(address)) {
    for (int i = 0; i < 4; ++i) {
      if (i) add(".");
      add_number(v4[i]);
    }
    return;
  }
  char text[INET6_ADDRSTRLEN] = "";
  const auto& v6 = *reinterpret_cast<const sockaddr_in6*>(&address.storage);
  add(inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text));
}

void ConnectionEnvironment::add_port(const SocketAddress& address) {
  // (IPv6 has its port at the same place.)
  add_number(ntohs(reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port));
}

std::vector<std::string> environment_of_programs() {
  std::vector<std::string> kept;
  for (char** e = environ; *e; ++e) {
    std::string_view entry = *e, name = entry.substr(0, entry.find('='));
    if (!is_program_variable(name)) kept.emplace_back(entry);
  }
  return kept;
}

std::string program_trouble(const std::vector<std::string>& argv) {
  const std::string reason = execution_trouble(argv[0]);
  return reason.empty() ? "" : "execute " + argv[0] + ": " + reason;
}

Program::Program(const std::vector<std::string>& argv)
    : argv_(argv), environment_(environment_of_programs()), ignored_(ignored_signals()) {
  argv_pointers_ = pointers_to(argv_);
  environment_pointers_ = pointers_to(environment_);
  environment_pointers_.pop_back();
}

std::string Program::become(const Accepted& connection, int nudge_signal) const {
  ucred unix_peer{};
  socklen_t size = sizeof unix_peer;
  if (connection.local.storage.ss_family == AF_UNIX)
    getsockopt(connection.fd.get(), SOL_SOCKET, SO_PEERCRED, &unix_peer, &size);

  // The fewer pages are written here, the fewer are copied between accept and exec.
  ConnectionEnvironment own(connection.local, connection.peer, unix_peer);
  char* const* argv = argv_pointers_.data();
  const size_t kept = environment_pointers_.size();
  auto* volatile* envp =  // pointer by pointer, and not by memcpy
      static_cast<char* volatile*>(alloca((kept + own.size() + 1) * sizeof(char*)));
  for (size_t i = 0; i < kept; ++i) envp[i] = environment_pointers_[i];
  for (size_t i = 0; i < own.size(); ++i) envp[kept + i] = own[i];
  envp[kept + own.size()] = nullptr;

  system_call(SYS_dup3, connection.fd.get(), 0, 0);
  system_call(SYS_dup3, connection.fd.get(), 1, 0);
  leave_only_standard_descriptors();
  reset_signals(nudge_signal, ignored_);
  const long result = system_call(SYS_execve, argv[0], argv, envp);
  return "execute " + argv_[0] + ": " + std::strerror(static_cast<int>(-result));
}

}  // namespace preforkd
