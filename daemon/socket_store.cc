#include "daemon/socket_store.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include "base/log.h"
#include "daemon/resolve.h"
#include "systemd/fd_store.h"

namespace preforkd {
namespace {

const std::string kPrefix = "preforkd/";

std::string with(std::string text, char from, char to) {
  std::replace(text.begin(), text.end(), from, to);
  return text;
}

// A name is removed with all that is stored by it. So what was opened for a port 0, of which there may be
// several, has the port that it got, too: "127.0.0.1=0=41234"; and for a host that is a name, its address:
// "localhost=80|127.0.0.1=80".
constexpr char kBeforeAddress = '|';

std::string name_of(const std::string& pool, const Listener& listener) {
  std::string entry = listener.wanted(), ignored;
  const auto wanted = parse_listen_address(entry, ignored);
  if (wanted && is_host_name(*wanted))
    entry += kBeforeAddress + listener.address();
  else if (wanted && wanted->kind == ListenAddress::Kind::kTcp && wanted->port == 0)
    entry += listener.address().substr(listener.address().rfind(':'));
  return kPrefix + pool + "@" + std::to_string(listener.uid()) + "/" + with(entry, ':', '=');
}

// Taken off the pool's name. kNobody: it does not say.
constexpr uid_t kNobody = static_cast<uid_t>(-1);
uid_t take_uid(std::string& pool) {
  const size_t at = pool.rfind('@');
  if (at == std::string::npos) return kNobody;
  uid_t uid = kNobody;
  std::from_chars(pool.data() + at + 1, pool.data() + pool.size(), uid);
  pool.resize(at);
  return uid;
}

std::string wanted_of(const std::string& entry) {
  std::string wanted = with(entry, '=', ':'), ignored;
  if (wanted.find('/') == wanted.npos && wanted.find('@') == wanted.npos)  // (a path may have one)
    wanted.resize(std::min(wanted.find(kBeforeAddress), wanted.size()));
  // With a port more it is no address.
  if (!parse_listen_address(wanted, ignored))
    wanted.resize(std::min(wanted.rfind(':'), wanted.size()));
  return wanted;
}

}  // namespace

std::map<std::string, Listeners> recover_stored(std::vector<InheritedSocket>& inherited,
                                                const std::map<std::string, EffectiveUser>& users) {
  std::map<std::string, Listeners> by_pool;
  for (InheritedSocket& socket : inherited) {
    if (!socket.name.starts_with(kPrefix)) continue;
    const size_t slash = socket.name.find('/', kPrefix.size());
    try {
      if (slash == std::string::npos) throw std::runtime_error("no name of ours");
      std::string pool = socket.name.substr(kPrefix.size(), slash - kPrefix.size());
      const uid_t uid = take_uid(pool);
      const std::string wanted = wanted_of(socket.name.substr(slash + 1));
      const auto user = users.find(pool);
      Listener listener = Listener::recover(std::move(socket.fd), socket.name, wanted,
                                            user == users.end() ? EffectiveUser{} : user->second);
      listener.is_of(uid);
      by_pool[pool].push_back(std::make_shared<Listener>(std::move(listener)));
    } catch (const std::exception& e) {
      log_warning("stored socket " + socket.name + ": " + e.what());
      unstore_fd(socket.name);
    }
    socket.fd.reset();
  }
  return by_pool;
}

void store_sockets(const std::string& pool, const Listeners& listeners) {
  if (!has_fd_store()) return;
  for (const auto& listener : listeners) {
    if (listener->outlives_us() || !listener->is_listening()) continue;
    const std::string name = name_of(pool, *listener);
    if (store_fd(name, listener->fd())) listener->set_stored_as(name);
  }
}

void unstore_socket(Listener& listener) {
  if (listener.stored_as().empty()) return;
  unstore_fd(listener.stored_as());
  listener.set_stored_as("");
}

}  // namespace preforkd
