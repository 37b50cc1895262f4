#include "base/resolve.h"

#include <netdb.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

#include "base/error.h"

namespace preforkd {

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
  addrinfo hints{}, *found = nullptr;
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  if (address.host == "*") hints.ai_family = AF_INET;
  int error = getaddrinfo(address.host == "*" ? nullptr : address.host.c_str(),
                          std::to_string(address.port).c_str(), &hints, &found);
  if (error == EAI_SYSTEM) throw SysError("resolve " + address.host, errno);
  if (error) throw std::runtime_error("resolve " + address.host + ": " + gai_strerror(error));
  std::memcpy(&result.storage, found->ai_addr, found->ai_addrlen);
  result.length = found->ai_addrlen;
  freeaddrinfo(found);
  return result;
}

}  // namespace preforkd
