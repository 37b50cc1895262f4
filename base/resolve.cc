#include "base/resolve.h"

#include <netdb.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "base/error.h"

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

std::string look_up(const std::string& host) {
  const Found found = find(host.c_str(), "0", AF_UNSPEC, 0);
  char text[NI_MAXHOST];
  const int error =
      getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  if (error) throw std::runtime_error("resolve " + host + ": " + gai_strerror(error));
  return text;
}

}  // namespace preforkd
