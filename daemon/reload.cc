// The reload: the new configuration is loaded and checked whole by a child (daemon/loader.h), what it needs is made, and
// what has changed is tried out beside what serves. When every trial has gone well everything takes effect at once; when anything
// fails, everything stays as it was.
//
//   load ──▶ plan, open new sockets ──▶ trials ──all well──▶ commit ──nobody else accepts──▶ done
//                 └─ refused ──────────┴── one is not ──▶ roll back
//
// An address that gets another user moves after the commit, and the reload is answered when it has: daemon/moves.cc.
//
// A stop, a second reload, a supervisor or control that dies meanwhile: a stop rolls it back; a second one is
// refused (after a HUP, which has nobody to tell, it is done again afterwards); a supervisor's successor is
// launched with the plan that is in force then; the answer to a control that is gone is dropped.
// A SIGKILL of the daemon: both generations drain, as at any other moment.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "base/error.h"
#include "base/log.h"
#include "conf/print.h"
#include "daemon/daemon.h"
#include "daemon/resolve.h"
#include "daemon/socket_store.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kSettle = 2 * kSecond;
constexpr Nanoseconds kSettleMoves = 10 * kSecond;  // more than they take (daemon/moves.cc)
constexpr Nanoseconds kLoadGrace =
    10 * kSecond;  // beyond the loading's deadline, for what comes then

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

// Whether the processes that serve by `a` can go on by `b`.
bool need_new_processes(const PoolPlan& a, const PoolPlan& b) {
  PoolSettings was = a.settings;
  was.limits = b.settings.limits;
  was.backlog = b.settings.backlog;
  was.tcp = b.settings.tcp;
  return !(was == b.settings) || a.listeners != b.listeners || a.user != b.user;
}

}  // namespace

// With `recycled_pool`, one pool is made anew as it is; without, everything from the file.
void Daemon::reload(const std::string& recycled_pool, OnReloaded on_done, bool restores) {
  if (!restores) restoring_gives_way();
  if (reload_ || is_moving_) {
    if (!on_done) reload_again_ = true;
    if (on_done) on_done("a reload is under way");
    return;
  }
  if (const Pool* pool = find_pool(recycled_pool); pool && !pool->is_serving())
    return on_done("pool " + recycled_pool + " is " + pool_state_name(pool->state()));
  finish_settling();  // the one before
  ++reloads_asked_;
  auto r = std::make_unique<Reload>();
  r->on_done = std::move(on_done);
  r->recycled = recycled_pool;
  r->restores = restores;
  r->what = !recycled_pool.empty() ? "Recycling " + recycled_pool
            : file_.empty()        ? "Reloading the built-in configuration"
                                   : "Reloading " + file_;
  notify_.reloading(r->what);
  reload_ = std::move(r);
  if (recycled_pool.empty()) return load();
  reload_->loaded.settings = settings_;
  reload_->loaded.users.assign(users_.begin(), users_.end());
  on_loaded({});
}

void Daemon::load() {
  Loading::Calls calls;
  calls.on_loaded = [this](LoadedSettings loaded, std::vector<std::string> errors) {
    reload_->loading.reset();
    reload_->loaded = std::move(loaded);
    on_loaded(std::move(errors));
  };
  calls.on_deadline = [this](Nanoseconds deadline) { extend_until(deadline + kLoadGrace); };
  try {
    reload_->loading = std::make_unique<Loading>(
        loop_, paths_, file_, InForce{bound_entries(), print_settings(settings_)},
        std::move(calls));
  } catch (const std::exception& e) {
    on_loaded({e.what()});
  }
}

BoundEntries Daemon::bound_entries() const {
  BoundEntries bound;
  for (const auto& pool : pools_)
    for (const auto& listener : pool->listeners())
      bound[pool->settings().name].push_back(listener->wanted());
  bound[""].push_back(settings_.control.web);
  return bound;
}

void Daemon::on_loaded(std::vector<std::string> errors) {
  if (errors.empty()) prepare_reload(*reload_, errors);
  if (!errors.empty()) {
    const auto refused = std::move(reload_);
    return end_reload(std::move(refused->on_done), joined(errors), refused->recycled);
  }
  extend_while_starting(reload_->loaded.settings);
  // Each takes over with as many workers as there are.
  auto waiting = std::make_shared<size_t>(1);
  // (By its number: the next one may have its place in memory.)
  auto counted = [this, waiting, asked = reloads_asked_] {
    if (--*waiting > 0 || !reload_ || reloads_asked_ != asked) return;
    // From a timer: a supervisor that dies answers, too, in the midst of something.
    reload_timer_ = loop_.after(0, [this, asked] {
      if (reload_ && reloads_asked_ == asked) start_trials();
    });
  };
  const Reload& r = *reload_;
  std::vector<Pool*> tried;
  for (size_t i = 0; i < r.plans.size(); ++i)
    if (r.needs_trial[i]) tried.push_back(&pool_of(r, i));
  *waiting += tried.size();
  for (Pool* pool : tried) pool->count_workers(counted);
  counted();
}

// Makes a plan for every pool, without touching anything that is in force.
void Daemon::prepare_reload(Reload& r, std::vector<std::string>& errors) {
  const Settings& next = r.loaded.settings;
  if (next.control.socket != settings_.control.socket)
    errors.push_back(r.loaded.file + ": control.socket: it is changed by a restart only");
  for (const auto& pool : pools_)
    r.before.insert(r.before.end(), pool->listeners().begin(), pool->listeners().end());
  if (!plan_pools(r, errors)) return;
  std::vector<const Listeners*> planned;
  for (const PoolPlan& plan : r.plans) planned.push_back(&plan.listeners);
  follow_dropped(planned, r.before, errors);
  if (next.control.web != settings_.control.web && links_.size() > 1)
    r.given_up = to_string(local_address(links_.back()->listen_fd()));
  for (PoolPlan& plan : r.plans) prepare_pool(r, plan, errors);
  prepare_web(r, errors);
}

bool Daemon::plan_pools(Reload& r, std::vector<std::string>& errors) {
  const Settings& next = r.loaded.settings;
  Listeners free = r.before;
  for (const auto& socket : inherited_) {
    UniqueFd copy(fcntl(socket.fd.get(), F_DUPFD_CLOEXEC, 3));
    if (!copy.is_open()) {
      errors.push_back("systemd's socket " + socket.name + ": " + std::strerror(errno));
      return false;
    }
    r.inherited.push_back({std::move(copy), socket.name});
  }
  Opening opening{next.pools, r.loaded.names, free, r.inherited, errors, r.recycled};
  for (size_t i = 0; i < next.pools.size(); ++i) {
    const PoolSettings& settings = next.pools[i];
    const EffectiveUser& user = r.loaded.users[i].value();
    const Pool* pool = find_pool(settings.name);
    // One that was taken out of the file, is in it again, and has not finished what it served: it goes on.
    Pool* leaver = pool ? nullptr : find_leaver(settings.name);
    try {
      if (leaver && leaver->state() == PoolState::kDraining && !leaver->is_settled())
        throw std::runtime_error(
            "pool " + settings.name +
            ", taken out of the configuration, still serves who waits: try again");
      // A recycled pool keeps the limits that were set since the file was read.
      r.plans.push_back(
          {settings, user,
           open_listeners(settings, user, pool ? pool->listeners() : Listeners{}, opening), &log_});
    } catch (const std::exception& e) {
      errors.emplace_back(e.what());
      return false;
    }
    r.returning.push_back(leaver);
  }
  r.without_file = std::move(opening.without_file);
  return true;
}

// In the order of the plans.
void Daemon::prepare_pool(Reload& r, PoolPlan& plan, std::vector<std::string>& errors) {
  const size_t i = r.added.size();
  const PoolSettings& settings = plan.settings;
  const Pool* pool = find_pool(settings.name);
  listen_on_new(plan.listeners, r.before, static_cast<int>(settings.backlog), r.given_up, errors);
  if (!pool || pool->settings().tcp.reuse_port != settings.tcp.reuse_port)
    for (const auto& listener : plan.listeners)
      if (listener->cannot_have(settings.tcp))
        errors.push_back(r.loaded.where(i, "tcp.reuse_port") +
                         ": tcp.reuse_port: " + listener->address() +
                         " is bound already: it is changed by a stop and a start only");
  // What could not be had before is not waited for: it is not about to come.
  auto may_come = [&](const auto& l) { return !l->is_listening() && !contains(r.before, l); };
  plan.goes_without = plan.awaits_address() && plan.has_address() &&
                      std::none_of(plan.listeners.begin(), plan.listeners.end(), may_come);
  r.added.push_back(pool || r.returning[i] ? nullptr : make_pool(plan));
  const bool changed =
      !pool || settings.name == r.recycled || need_new_processes(pool->plan(), plan);
  const bool outgrown = pool && settings.limits.max > pool->capacity();
  r.needs_trial.push_back((changed || outgrown) && (!pool || pool->is_serving()));
}

// By a pool, whose socket of it is closed then.
bool Daemon::is_dropped(const Reload& r, const std::string& address) {
  return std::any_of(r.before.begin(), r.before.end(), [&](const auto& listener) {
    return listener->is_listening() && !listener->is_inherited() &&
           overlap(listener->address(), address);
  });
}

void Daemon::prepare_web(Reload& r, std::vector<std::string>& errors) {
  const Settings& next = r.loaded.settings;
  if (next.control.web.empty()) return;
  if (next.control.web == settings_.control.web) {
    // Other hosts: another process, on the same socket.
    r.web_stays = true;
    if (lacks_web()) return;  // it is tried again
    if (next.control.hosts == settings_.control.hosts) return;
    r.web_socket.reset(fcntl(links_.back()->listen_fd(), F_DUPFD_CLOEXEC, 3));
    if (!r.web_socket.is_open())
      errors.push_back(std::string("control.hosts: keep the socket of control.web: ") +
                       std::strerror(errno));
    return;
  }
  std::string address;
  try {
    std::string error;
    const auto web = parse_listen_address(next.control.web, error);
    if (!web) return;
    const ListenAddress number = with_numbers(*web, r.loaded.names).front();
    address = to_string(resolve(number));
    for (const PoolPlan& plan : r.plans)
      for (const auto& listener : plan.listeners)
        if (overlap(listener->address(), address))
          throw std::runtime_error("web " + next.control.web + " overlaps with " +
                                   listener->address() + " of pool " + plan.settings.name);
    r.web_socket = links_.size() > 1
                       ? open_beside(links_.back()->listen_fd(), number, kControlBacklog)
                       : Listener::open(number, kControlBacklog).release_fd();
  } catch (const SysError& e) {
    r.web_comes_later = e.error() == EADDRINUSE && is_dropped(r, address);
    if (!r.web_comes_later) errors.push_back(std::string("control: ") + e.what());
  } catch (const std::exception& e) {
    errors.push_back(std::string("control: ") + e.what());
  }
}

Pool& Daemon::pool_of(const Reload& r, size_t index) {
  if (r.added[index]) return *r.added[index];
  return r.returning[index] ? *r.returning[index] : *find_pool(r.plans[index].settings.name);
}

void Daemon::start_trials() {
  Reload& r = *reload_;
  ++r.undecided;  // until all are launched
  std::string tried;
  for (size_t i = 0; i < r.plans.size() && r.trouble.empty(); ++i) {
    if (!r.needs_trial[i]) continue;
    Pool& pool = pool_of(r, i);
    const Limits limits = r.recycles() ? pool.limits() : r.plans[i].settings.limits;
    try {
      pool.try_out(
          r.plans[i], limits, r.recycles(),
          [this, i](const std::string& why, const std::string& key) { on_verdict(i, why, key); });
      ++r.undecided;
      tried += (tried.empty() ? ": trying out " : ", ") + r.plans[i].settings.name;
    } catch (const std::exception& e) {
      r.trouble = std::string("pool ") + r.plans[i].settings.name + ": " + e.what();
    }
  }
  --r.undecided;
  if (!r.trouble.empty())
    roll_back(r.trouble);
  else if (r.undecided == 0)
    commit_reload();
  else
    notify_.status(r.what + tried);
}

void Daemon::on_verdict(size_t index, const std::string& reason, const std::string& key) {
  Reload& r = *reload_;
  if (!reason.empty()) {
    const PoolSettings& pool = r.plans[index].settings;
    const std::string blamed = key.empty() ? pool.server_key() : key;
    const std::string where = r.recycles() ? "" : r.loaded.where(index, blamed) + ": ";
    roll_back(where + "pool " + pool.name + ": " +
              (key.empty() ? "the new generation failed: " : "") + reason);
    return;
  }
  log({LogLevel::kInfo, r.plans[index].settings.name, 0,
       "the new generation has passed its trial"});
  if (--r.undecided == 0) commit_reload();
}

void Daemon::commit_reload() {
  auto r = std::move(reload_);
  move_timer_ = {};
  commit_pools(*r);
  for (size_t i = 0; i < inherited_.size(); ++i)
    if (!r->inherited[i].fd.is_open()) inherited_[i].fd.reset();
  std::erase_if(inherited_, [](const auto& socket) { return !socket.fd.is_open(); });
  if (!r->recycles()) {
    settings_ = r->loaded.settings;
    names_ = r->loaded.names;
    users_.clear();
    for (const PoolPlan& plan : r->plans) users_.push_back(plan.user);
    LogLevel level = LogLevel::kInfo;
    if (log_level_from_name(settings_.log_level, level)) set_log_level(level);
    for (auto& pool : pools_) pool->set_log_level(level);
    const auto& gid = r->loaded.control_gid;
    control_gid_ = gid ? int64_t{*gid} : -1;
    ++reloads_;
  }
  commit_web(*r);
  tell_daemon_info();
  for (auto& pool : pools_) tell_pool_info(*pool);
  for (auto& pool : leaving_) tell_pool_info(*pool);
  log({LogLevel::kInfo, r->recycled, 0, r->recycles() ? "recycled" : "reloaded " + r->loaded.file,
       Event::kReloaded});
  settling_ = [this, on_done = std::move(r->on_done)](const std::string& trouble) {
    end_reload(
        [&](const std::string&) {
          if (on_done) on_done(trouble);
        },
        "");
  };
  begin_moves(r->before);
  for (const auto& listener : r->without_file) on_file_changed(listener);
  settle_in_time();
  look_whether_settled();
}

// Moves end by themselves, and a standstill makes them longer.
void Daemon::settle_in_time() {
  settle_timer_ = loop_.after(is_moving_ ? kSettleMoves : kSettle,
                              [this] { is_moving_ ? settle_in_time() : finish_settling(); });
}

// Who hears that a reload is done may take it that the old code meets no new client.
void Daemon::look_whether_settled() {
  auto settled = [](const auto& pool) { return pool->is_settled(); };
  if (std::all_of(pools_.begin(), pools_.end(), settled) &&
      std::all_of(leaving_.begin(), leaving_.end(), settled))
    finish_settling();
}

void Daemon::finish_settling() {
  settle_timer_ = {};
  if (auto done = std::exchange(settling_, nullptr)) done("");
}

void Daemon::commit_pools(Reload& r) {
  Listeners after;
  for (const PoolPlan& plan : r.plans)
    after.insert(after.end(), plan.listeners.begin(), plan.listeners.end());
  auto dropped_by = [&after](const Pool& pool) {
    Listeners dropped = pool.listeners();
    std::erase_if(dropped, [&](const auto& listener) { return contains(after, listener); });
    return dropped;
  };

  for (auto& pool : pools_) pool->forget_listeners();
  for (size_t i = 0; i < r.plans.size(); ++i) {
    Pool& pool = pool_of(r, i);
    Listeners dropped = r.added[i] || r.returning[i] ? Listeners{} : dropped_by(pool);
    for (const auto& listener : dropped) unstore_socket(*listener);
    store_sockets(pool.settings().name, r.plans[i].listeners);
    if (r.needs_trial[i])
      pool.promote(dropped, r.recycles());
    else if (!r.recycles())
      pool.adopt(r.plans[i], dropped);
    say_listening(pool, r.before);
  }

  // In the order of the file; what is not in it any more leaves.
  std::vector<std::unique_ptr<Pool>> next, before = std::move(pools_);
  pools_.clear();
  for (size_t i = 0; i < r.plans.size(); ++i) {
    auto is_it = [&](const auto& pool) {
      return pool && pool->settings().name == r.plans[i].settings.name;
    };
    auto& from = r.returning[i] ? leaving_ : before;
    next.push_back(
        std::move(r.added[i] ? r.added[i] : *std::find_if(from.begin(), from.end(), is_it)));
  }
  std::erase(before, nullptr);
  std::erase(leaving_, nullptr);
  for (auto& pool : before) {
    for (const auto& listener : dropped_by(*pool)) unstore_socket(*listener);
    log({LogLevel::kNotice, pool->settings().name, 0, "taken out of the configuration: draining"});
    pool->finish(after);
    leaving_.push_back(std::move(pool));
  }
  pools_ = std::move(next);
  for (auto& pool : pools_) pool->watch_listeners();
}

// The page's socket may have moved; the socket that commands come from has not.
void Daemon::commit_web(Reload& r) {
  const bool has_link = links_.size() > 1;
  const bool wanted = !settings_.control.web.empty();
  if (wanted && !r.web_socket.is_open() && !r.web_comes_later) return;  // as it was
  if (has_link) {
    if (r.web_stays)
      links_.back()->close();
    else
      links_.back()->retire();
    old_links_.push_back(std::move(links_.back()));
    links_.pop_back();
  }
  if (wanted) start_web(std::move(r.web_socket));
}

void Daemon::roll_back(const std::string& reason) {
  auto r = std::move(reload_);
  reload_timer_ = {};
  for (auto& pool : pools_)
    if (pool->trial()) pool->abandon();
  for (auto& pool : leaving_)
    if (pool->trial()) pool->abandon();
  for (auto& pool : r->added) {
    if (!pool) continue;
    if (pool->trial()) pool->abandon();
    if (!pool->is_over()) leaving_.push_back(std::move(pool));
  }
  if (phase_ == Phase::kRunning) close_when_over();
  end_reload(std::move(r->on_done), reason, r->recycled);
}

// Tells everybody who asked. READY ends it for systemd, whether it succeeded or not.
void Daemon::end_reload(OnReloaded on_done, const std::string& refusal,
                        const std::string& recycled) {
  refusal_.clear();
  if (!refusal.empty() && recycled.empty()) {
    log_error("reload refused, nothing was changed: " + refusal, Event::kReloadRefused);
    refusal_ = "the last reload was refused, and nothing was changed: " + refusal;
  } else if (!refusal.empty()) {
    const std::string said = "not recycled, the old generation goes on: " + refusal;
    log({LogLevel::kError, recycled, 0, said, Event::kReloadRefused});
    refusal_ = "pool " + recycled + " was " + said;
  }
  if (phase_ == Phase::kRunning) {
    said_ready_ = false;
    notify_state();
  }
  if (on_done) on_done(refusal);
  if (!std::exchange(reload_again_, false)) return;
  reload_timer_ = loop_.after(0, [this] {
    if (phase_ == Phase::kRunning) reload({}, {});
  });
}

}  // namespace preforkd
