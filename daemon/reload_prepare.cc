// What a reload needs before anything is tried: a plan for every pool, with its sockets, and the page's socket. Nothing that
// is in force is touched.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "base/error.h"
#include "daemon/reload.h"
#include "daemon/resolve.h"

namespace preforkd {
namespace {

// Whether the processes that serve by `a` can go on by `b`.
bool need_new_processes(const PoolPlan& a, const PoolPlan& b) {
  PoolSettings was = a.settings;
  was.limits = b.settings.limits;
  was.backlog = b.settings.backlog;
  was.tcp = b.settings.tcp;
  return !(was == b.settings) || a.listeners != b.listeners || a.user != b.user;
}

// By a pool, whose socket of it is closed then.
bool is_dropped(const Listeners& before, const std::string& address) {
  return std::any_of(before.begin(), before.end(), [&](const auto& listener) {
    return listener->is_listening() && !listener->is_inherited() &&
           overlap(listener->address(), address);
  });
}

}  // namespace

void Reload::prepare(Attempt& a, std::vector<std::string>& errors) {
  const Settings& next = a.loaded.settings;
  const ControlSettings& control = in_force_.settings.control;
  if (next.control.socket != control.socket)
    errors.push_back(a.loaded.file + ": control.socket: it is changed by a restart only");
  a.before = pools_.listeners();
  if (!plan_pools(a, errors)) return;
  std::vector<const Listeners*> planned;
  for (const PoolChange& change : a.changes) planned.push_back(&change.plan.listeners);
  follow_dropped(planned, a.before, errors);
  if (next.control.web != control.web && control_.has_web())
    a.given_up = to_string(local_address(control_.web_fd()));
  for (size_t i = 0; i < a.changes.size(); ++i) prepare_pool(a, i, errors);
  prepare_web(a, errors);
}

bool Reload::copy_inherited(Attempt& a, std::vector<std::string>& errors) const {
  for (const auto& socket : inherited_) {
    UniqueFd copy(fcntl(socket.fd.get(), F_DUPFD_CLOEXEC, 3));
    if (!copy.is_open()) {
      errors.push_back("systemd's socket " + socket.name + ": " + std::strerror(errno));
      return false;
    }
    a.inherited.push_back({std::move(copy), socket.name});
  }
  return true;
}

bool Reload::plan_pools(Attempt& a, std::vector<std::string>& errors) {
  const Settings& next = a.loaded.settings;
  if (!copy_inherited(a, errors)) return false;
  Listeners free = a.before;
  Opening opening{next.pools, a.loaded.names, free, a.inherited, errors, a.recycled};
  for (size_t i = 0; i < next.pools.size(); ++i) {
    const PoolSettings& settings = next.pools[i];
    const EffectiveUser& user = a.loaded.users[i].value();
    PoolChange change;
    change.pool = pools_.find(settings.name);
    change.is_new = change.pool == nullptr;
    const Listeners own = change.pool ? change.pool->listeners() : Listeners{};
    // One that was taken out of the file, is in it again, and has not finished what it served: it goes on.
    if (change.is_new) change.pool = pools_.find_leaving(settings.name);
    try {
      if (change.is_new && change.pool && change.pool->state() == PoolState::kDraining &&
          !change.pool->is_settled())
        throw std::runtime_error(
            "pool " + settings.name +
            ", taken out of the configuration, still serves who waits: try again");
      change.plan = {settings, user, open_listeners(settings, user, own, opening), &log_};
    } catch (const std::exception& e) {
      errors.emplace_back(e.what());
      return false;
    }
    a.changes.push_back(std::move(change));
  }
  a.without_file = std::move(opening.without_file);
  return true;
}

// In the order of the plans.
void Reload::prepare_pool(Attempt& a, size_t index, std::vector<std::string>& errors) {
  PoolChange& change = a.changes[index];
  PoolPlan& plan = change.plan;
  const PoolSettings& settings = plan.settings;
  const Pool* pool = change.is_new ? nullptr : change.pool;
  listen_on_new(plan.listeners, a.before, static_cast<int>(settings.backlog), a.given_up, errors);
  if (!pool || pool->settings().tcp.reuse_port != settings.tcp.reuse_port)
    for (const auto& listener : plan.listeners)
      if (listener->cannot_have(settings.tcp))
        errors.push_back(a.loaded.where(index, "tcp.reuse_port") +
                         ": tcp.reuse_port: " + listener->address() +
                         " is bound already: it is changed by a stop and a start only");
  // What could not be had before is not waited for: it is not about to come.
  auto may_come = [&](const auto& l) { return !l->is_listening() && !contains(a.before, l); };
  plan.goes_without = plan.awaits_address() && plan.has_address() &&
                      std::none_of(plan.listeners.begin(), plan.listeners.end(), may_come);
  if (!change.pool) change.pool = &pools_.add_coming(plan, log_level_of(in_force_.settings));
  const bool has_changed =
      !pool || settings.name == a.recycled || need_new_processes(pool->plan(), plan);
  const bool is_outgrown = pool && settings.limits.max > pool->capacity();
  change.needs_trial = (has_changed || is_outgrown) && (!pool || pool->is_serving());
}

void Reload::prepare_web(Attempt& a, std::vector<std::string>& errors) {
  const ControlSettings& next = a.loaded.settings.control;
  if (next.web.empty()) return;
  if (next.web == in_force_.settings.control.web) return keep_web(a, errors);
  std::string address;
  try {
    a.web.socket = open_web(a, address);
  } catch (const SysError& e) {
    a.web.comes_later = e.error() == EADDRINUSE && is_dropped(a.before, address);
    if (!a.web.comes_later) errors.push_back(std::string("control: ") + e.what());
  } catch (const std::exception& e) {
    errors.push_back(std::string("control: ") + e.what());
  }
}

// For other hosts: another process, on the same socket. One that is missing is tried again anyway.
void Reload::keep_web(Attempt& a, std::vector<std::string>& errors) {
  a.web.stays = true;
  if (control_.lacks_web() || a.loaded.settings.control.hosts == in_force_.settings.control.hosts)
    return;
  a.web.socket.reset(fcntl(control_.web_fd(), F_DUPFD_CLOEXEC, 3));
  if (!a.web.socket.is_open())
    errors.push_back(std::string("control.hosts: keep the socket of control.web: ") +
                     std::strerror(errno));
}

UniqueFd Reload::open_web(const Attempt& a, std::string& address) {
  const std::string& wanted = a.loaded.settings.control.web;
  std::string error;
  const auto web = parse_listen_address(wanted, error);
  if (!web) return {};
  const ListenAddress number = with_numbers(*web, a.loaded.names).front();
  address = to_string(resolve(number));
  for (const PoolChange& change : a.changes)
    for (const auto& listener : change.plan.listeners)
      if (overlap(listener->address(), address))
        throw std::runtime_error("web " + wanted + " overlaps with " + listener->address() +
                                 " of pool " + change.plan.settings.name);
  return control_.has_web() ? open_beside(control_.web_fd(), number, kControlBacklog)
                            : Listener::open(number, kControlBacklog).release_fd();
}

}  // namespace preforkd
