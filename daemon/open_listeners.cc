// The listeners of a configuration: what there is already, what another stands for, and what is new.
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <stdexcept>

#include "base/error.h"
#include "daemon/listener.h"
#include "daemon/resolve.h"

namespace preforkd {
namespace {

// Takes out of `free` those that an entry of `listen` means already: by its text among the pool's own (where
// "127.0.0.1:0" has long been some port), by its address anywhere. One whose address is an entry of any pool is
// left to that. Of systemd's several may share a name, and of a host's several have the text.
Listeners take_known(const std::string& text, size_t most, bool from_systemd, const Listeners& own,
                     Opening& opening) {
  const auto& pools = opening.pools;
  Listeners& free = opening.free;
  auto is_entry = [&](const std::string& address) {
    return std::any_of(pools.begin(), pools.end(), [&](const PoolSettings& pool) {
      return std::find(pool.listen.begin(), pool.listen.end(), address) != pool.listen.end();
    });
  };
  auto is_meant = [&](const Listener& listener, bool is_own) {
    if (listener.address() == text) return true;
    return (is_own || from_systemd) && listener.wanted() == text && !is_entry(listener.address());
  };
  Listeners found;
  for (const bool is_own : {true, false})
    if (found.empty())
      std::copy_if(free.begin(), free.end(), std::back_inserter(found), [&](const auto& listener) {
        return contains(own, listener) == is_own && is_meant(*listener, is_own);
      });
  if (found.size() > most) found.resize(most);
  std::erase_if(free, [&](const auto& listener) { return contains(found, listener); });
  return found;
}

// As a socket that is bound to it says it.
std::string text_of(const ListenAddress& number) { return to_string(resolve(number)); }

bool has_host_of(const Listener& listener, const ListenAddress& number) {
  std::string ignored;
  const auto bound = parse_listen_address(listener.address(), ignored);
  ListenAddress same_port = number;
  if (bound) same_port.port = bound->port;
  return text_of(same_port) == listener.address();
}

// Of an entry that is no name of systemd's: what is there already, and what is to be listened on beside.
struct Meant {
  Listeners known;
  std::vector<ListenAddress> missing;
};

Meant look_for(const std::string& text, const ListenAddress& address, const Listeners& own,
               Opening& opening) {
  Meant meant;
  const bool is_name = is_host_name(address);
  meant.known = take_known(text, is_name ? kMostSockets : 1, false, own, opening);
  // A name that was not looked up, or that nobody answers for now, means what it meant.
  const auto looked_up = opening.names.find(address.host);
  const bool is_known = looked_up != opening.names.end() && looked_up->second.error.empty();
  if (is_name && !is_known && !meant.known.empty()) return meant;
  if (!is_name && !meant.known.empty()) return meant;
  const std::vector<ListenAddress> numbers = with_numbers(address, opening.names);
  for (auto it = meant.known.begin(); it != meant.known.end();) {  // of addresses that it had
    const bool stays = std::any_of(numbers.begin(), numbers.end(),
                                   [&](const auto& number) { return has_host_of(**it, number); });
    if (!stays) opening.free.push_back(*it);
    it = stays ? it + 1 : meant.known.erase(it);
  }
  for (const ListenAddress& number : numbers) {
    const bool is_there = std::any_of(meant.known.begin(), meant.known.end(),
                                      [&](const auto& one) { return has_host_of(*one, number); });
    if (is_there) continue;
    // Written otherwise before.
    Listeners same;
    if (number.kind == ListenAddress::Kind::kTcp && number.port != 0)
      same = take_known(text_of(number), 1, false, {}, opening);
    if (same.empty()) meant.missing.push_back(number);
    for (const auto& one : same) one->opened_for(text);
    meant.known.insert(meant.known.end(), same.begin(), same.end());
  }
  return meant;
}

}  // namespace

std::vector<ListenAddress> with_numbers(const ListenAddress& address, const HostNames& names) {
  const auto found = names.find(address.host);
  if (address.kind != ListenAddress::Kind::kTcp || found == names.end()) return {address};
  if (!found->second.error.empty()) throw std::runtime_error(found->second.error);
  std::vector<ListenAddress> all;
  for (const std::string& number : found->second.addresses) {
    all.push_back(address);
    all.back().host = number;
  }
  return all;
}

UniqueFd open_beside(int before, const ListenAddress& address, int backlog) {
  const auto share = [](int fd, int on) {
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  };
  UniqueFd opened;
  share(before, 1);
  try {
    opened = Listener::open(address, backlog, {}, {.reuse_port = true}).release_fd();
  } catch (...) {
    share(before, 0);
    throw;
  }
  share(before, 0);
  share(opened.get(), 0);
  return opened;
}

namespace {

// The listeners of one pool, as they are found or made.
class OpenListeners {
 public:
  OpenListeners(const PoolSettings& pool, const EffectiveUser& user, const Listeners& own,
                Opening& opening)
      : pool_(pool), user_(user), own_(own), opening_(opening) {}

  Listeners take() { return std::move(listeners_); }
  // All of an entry of `listen`. Throws SysError, std::runtime_error.
  void open(const std::string& text) {
    std::string error;
    const auto address = parse_listen_address(text, error);
    if (!address) throw std::runtime_error(text + ": " + error);
    if (address->kind == ListenAddress::Kind::kSystemd) return adopt(text, address->path);
    const Meant meant = look_for(text, *address, own_, opening_);
    for (const auto& known : meant.known) add_known(known, text);
    for (const auto& number : meant.missing) add(Listener::prepare(number, user_, pool_.tcp), text);
  }

 private:
  void adopt(const std::string& text, const std::string& name) {
    const size_t before = listeners_.size();
    for (const auto& known : take_known(text, SIZE_MAX, true, own_, opening_))
      add_known(known, text);
    if (listeners_.size() > before) return;
    for (auto& socket : opening_.inherited)
      if (socket.name == name && socket.fd.is_open())
        add(Listener::adopt(std::move(socket.fd), socket.name), text);
    if (listeners_.size() == before)
      throw std::runtime_error("listen " + text + ": systemd passed no socket of that name");
  }

  void add_known(const std::shared_ptr<Listener>& known, const std::string& wanted) {
    if (known->uid() == user_.uid && is_good(known))
      listeners_.push_back(known);
    else
      add(Listener::prepare_instead_of(known, user_, pool_.tcp), wanted);
  }

  bool is_good(const std::shared_ptr<Listener>& known) {
    const bool is_looked_at = opening_.recycled.empty() || opening_.recycled == pool_.name;
    if (!is_looked_at || known->has_its_file()) return true;
    if (known->in_the_way().empty()) return false;
    opening_.without_file.push_back(known);
    return true;
  }

  void add(Listener listener, const std::string& wanted) {
    listener.set_options(pool_.tcp);
    listener.opened_for(wanted);
    listener.is_of(user_.uid);
    listeners_.push_back(std::make_shared<Listener>(std::move(listener)));
    for (const auto& before : listeners_.back()->before())
      before->is_followed_by(listeners_.back());
  }

  const PoolSettings& pool_;
  const EffectiveUser& user_;
  const Listeners& own_;
  Opening& opening_;
  Listeners listeners_;
};

}  // namespace

Listeners open_listeners(const PoolSettings& pool, const EffectiveUser& user, const Listeners& own,
                         Opening& opening) {
  OpenListeners open(pool, user, own, opening);
  for (const std::string& text : pool.listen) {
    try {
      open.open(text);
    } catch (const std::exception& e) {
      opening.errors.emplace_back(e.what());
    }
  }
  Listeners listeners = open.take();
  if (listeners.size() > kMostSockets)
    opening.errors.emplace_back("pool " + pool.name + ": listen: its names have " +
                                std::to_string(listeners.size()) + " addresses in all, and " +
                                std::to_string(kMostSockets) + " sockets are the most for a pool");
  return listeners;
}

void follow_dropped(const std::vector<const Listeners*>& plans, const Listeners& before,
                    std::vector<std::string>& errors) {
  Listeners dropped = before;
  for (const Listeners* plan : plans)
    std::erase_if(dropped, [plan](const auto& one) { return contains(*plan, one); });
  std::erase_if(dropped, [](const auto& one) { return one->is_inherited(); });
  for (const Listeners* plan : plans)
    for (const auto& listener : *plan) {
      if (listener->is_listening() || contains(before, listener)) continue;
      Listeners overlapping;
      for (const auto& one : dropped)
        if (one->is_listening() && !contains(listener->before(), one) &&
            overlap(listener->address(), one->address()))
          overlapping.push_back(one);
      if (overlapping.empty()) continue;
      try {
        for (const auto& one : overlapping) one->is_followed_by(listener);
        listener->follow(overlapping);
      } catch (const std::exception& e) {
        errors.emplace_back(e.what());
      }
    }
}

void listen_on_new(const Listeners& listeners, const Listeners& before, int backlog,
                   const std::string& given_up, std::vector<std::string>& errors) {
  for (const auto& listener : listeners) {
    if (listener->is_listening() || !listener->before().empty() || contains(before, listener))
      continue;
    try {
      listener->start_listening(backlog);
    } catch (const SysError& e) {
      if (e.error() != EADDRINUSE || !overlap(listener->address(), given_up))
        errors.emplace_back(e.what());
    } catch (const std::exception& e) {
      errors.emplace_back(e.what());
    }
  }
}

}  // namespace preforkd
