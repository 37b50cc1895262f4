#include "daemon/resolve.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace preforkd {
namespace {

using Found = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

// `host` null: every address of this machine.
Found find(const char* host, const std::string& port, int family, int flags) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_flags = AI_PASSIVE | flags;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_family = family;
  const int error = getaddrinfo(host, port.c_str(), &hints, &found);
  const std::string verb = std::string("resolve ") + (host ? host : "*");
  if (error == EAI_SYSTEM) throw SysError(verb, errno);
  if (error) throw std::runtime_error(verb + ": " + gai_strerror(error));
  return {found, freeaddrinfo};
}

// Each that there is has a loopback address at least.
bool has_family(int family) {
  sockaddr_storage loopback{};
  loopback.ss_family = static_cast<sa_family_t>(family);
  if (family == AF_INET)
    reinterpret_cast<sockaddr_in*>(&loopback)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  else
    reinterpret_cast<sockaddr_in6*>(&loopback)->sin6_addr = in6addr_loopback;
  const UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return fd.is_open() && bind(fd.get(), reinterpret_cast<const sockaddr*>(&loopback),
                              family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6)) == 0;
}

}  // namespace

SocketAddress resolve(const ListenAddress& address) {
  SocketAddress result;
  if (address.kind == ListenAddress::Kind::kUnix) {
    auto* un = reinterpret_cast<sockaddr_un*>(&result.storage);
    un->sun_family = AF_UNIX;
    address.path.copy(un->sun_path, sizeof un->sun_path - 1);
    bool abstract = address.path.front() == '@';
    if (abstract) un->sun_path[0] = '\0';
    result.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.path.size() +
                                           (abstract ? 0 : 1));
    return result;
  }
  const bool any = address.host == "*";
  const Found found = find(any ? nullptr : address.host.c_str(), std::to_string(address.port),
                           any ? AF_INET : AF_UNSPEC, AI_NUMERICHOST);
  std::memcpy(&result.storage, found->ai_addr, found->ai_addrlen);
  result.length = found->ai_addrlen;
  return result;
}

bool is_host_name(const ListenAddress& address) {
  if (address.kind != ListenAddress::Kind::kTcp || address.host == "*") return false;
  try {
    resolve(address);
    return false;
  } catch (const std::exception&) {
    return true;
  }
}

std::vector<std::string> look_up(const std::string& host) {
  const Found found = find(host.c_str(), "0", AF_UNSPEC, 0);
  std::vector<std::string> all, usable;
  for (const addrinfo* one = found.get(); one; one = one->ai_next) {
    char text[NI_MAXHOST];
    const int error =
        getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
    if (error) throw std::runtime_error("resolve " + host + ": " + gai_strerror(error));
    if (std::find(all.begin(), all.end(), text) != all.end()) continue;
    all.emplace_back(text);
    if (has_family(one->ai_family)) usable.emplace_back(text);
  }
  return usable.empty() ? all : usable;
}

}  // namespace preforkd
