#include "daemon/daemon.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "base/log.h"
#include "conf/user.h"
#include "daemon/facts.h"
#include "daemon/session.h"
#include "daemon/socket_store.h"

namespace preforkd {
namespace {

// Beyond timeouts.drain: for TERM, KILL and the last messages.
constexpr Nanoseconds kFinishGrace = 5 * kSecond;
constexpr Nanoseconds kStopGrace = 3 * kSecond;
constexpr Nanoseconds kControlGrace = 1 * kSecond;
constexpr int kMostRounds = 100;  // of ending children of children

EffectiveUser user_of(const std::string& user, const std::string& group) {
  std::string error;
  auto found = effective_user(user, group, error);
  if (!found) throw ConfigError(error);
  return *found;
}

}  // namespace

Daemon::Daemon(const Paths& paths, std::string file, LoadedSettings loaded)
    : paths_(paths),
      file_(std::move(file)),
      settings_(std::move(loaded.settings)),
      started_(monotonic_now()) {
  std::string error;
  if (!settings_.control.group.empty())
    if (auto gid = find_group(settings_.control.group, error)) control_gid_ = *gid;
}

Daemon::~Daemon() {
  if (!ran_) end_the_rest();  // a start that failed half-way leaves nothing running
  links_.clear();
  pools_.clear();
  if (!control_path_.empty()) unlink(control_path_.c_str());
}

// --- start-up ------------------------------------------------------------------------------------

void Daemon::catch_signals() {
  strangers_ = own_children().value_or(std::vector<pid_t>{});
  // What a dead supervisor leaves is ours to reap, and to end.
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
    throw SysError("become child subreaper", errno);
  signal(SIGPIPE, SIG_IGN);
  sigset_t ours;
  sigemptyset(&ours);
  for (int s : {SIGCHLD, SIGTERM, SIGQUIT, SIGINT, SIGHUP, SIGUSR2}) sigaddset(&ours, s);
  sigprocmask(SIG_BLOCK, &ours, nullptr);
  signals_.reset(signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.is_open()) throw SysError("signalfd", errno);
  loop_.watch(signals_.get(), EPOLLIN, [this](uint32_t) { on_signals(); });
}

void Daemon::open_sockets(std::vector<InheritedSocket> inherited) {
  std::vector<std::string> errors;
  inherited_ = std::move(inherited);
  auto stored = recover_stored(inherited_);
  std::erase_if(inherited_, [](const auto& socket) { return !socket.fd.is_open(); });
  Listeners free;
  for (const auto& [pool, listeners] : stored)
    free.insert(free.end(), listeners.begin(), listeners.end());
  for (const PoolSettings& pool : settings_.pools)
    opened_.push_back(
        open_listeners(pool, settings_.pools, stored[pool.name], free, inherited_, errors));
  for (const auto& unused : free) unstore_socket(*unused);
  for (const auto& left : inherited_)
    if (left.fd.is_open())
      log_warning("systemd passed socket " + left.name + ", which no pool uses");

  // The control socket: one that answers belongs to another preforkd.
  std::string path = settings_.control.socket.empty() ? paths_.runtime + "/control.sock"
                                                      : settings_.control.socket;
  ListenAddress address;
  address.kind = ListenAddress::Kind::kUnix;
  address.path = path;
  auto open_control = [&errors](const ListenAddress& at, UniqueFd& into) {
    try {
      into = Listener::open(at, kControlBacklog).release_fd();
      return true;
    } catch (const std::exception& e) {
      errors.push_back(std::string("control: ") + e.what());
      return false;
    }
  };
  if (open_control(address, control_socket_)) control_path_ = path;
  std::string error;
  if (!settings_.control.web.empty())
    if (auto web = parse_listen_address(settings_.control.web, error))
      open_control(*web, web_socket_);

  if (errors.empty()) return;
  for (size_t i = 0; i + 1 < errors.size(); ++i) log_error(errors[i]);
  throw std::runtime_error(errors.back());
}

void Daemon::start_pools() {
  extend_while_starting(settings_);
  for (size_t i = 0; i < settings_.pools.size(); ++i)
    pools_.push_back(make_pool(plan_for(settings_.pools[i], std::move(opened_[i]))));
  opened_.clear();
  for (auto& pool : pools_) {
    say_listening(*pool, {});
    store_sockets(pool->settings().name, pool->listeners());
    pool->start();
  }
}

PoolPlan Daemon::plan_for(const PoolSettings& settings, Listeners listeners) const {
  return {settings, user_of(settings.user, settings.group), std::move(listeners)};
}

std::unique_ptr<Pool> Daemon::make_pool(PoolPlan plan) {
  LogLevel level = LogLevel::kInfo;
  log_level_from_name(settings_.log_level, level);
  PoolOwner& owner = *this;
  return std::make_unique<Pool>(loop_, owner, paths_, std::move(plan), level);
}

void Daemon::say_listening(const Pool& pool, const Listeners& before) {
  for (const auto& listener : pool.listeners())
    if (!contains(before, listener))
      log({LogLevel::kInfo, pool.settings().name, 0, "listening on " + listener->address()});
}

void Daemon::start_control() {
  links_.push_back(make_link(ControlLink::Kind::kFull, std::move(control_socket_)));
  links_.back()->start();
  if (web_socket_.is_open()) {
    links_.push_back(make_link(ControlLink::Kind::kWeb, std::move(web_socket_)));
    links_.back()->start();
  }
  feed_watchdog();
}

std::unique_ptr<ControlLink> Daemon::make_link(ControlLink::Kind kind, UniqueFd socket) {
  ControlLink::Calls calls;
  calls.greet = [this](ControlLink& link) { greet(link); };
  calls.on_request = [this](const Request& r, std::string bytes) {
    on_request(r, std::move(bytes));
  };
  return std::make_unique<ControlLink>(loop_, kind, paths_.control, std::move(socket),
                                       user_of("", ""), settings_.log_level, std::move(calls));
}

void Daemon::run() {
  ran_ = true;
  notify_state();
  loop_.run();
}

// --- signals and children ------------------------------------------------------------------------

void Daemon::on_signals() {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    switch (info.ssi_signo) {
      case SIGCHLD:
        reap();
        break;
      case SIGTERM:
      case SIGQUIT:
        phase_ == Phase::kRunning ? finish() : stop_now();
        break;
      case SIGINT:
        stop_now();
        break;
      case SIGHUP:
        if (phase_ == Phase::kRunning) reload({}, {});
        break;
      case SIGUSR2:
        upgrade(0);
        break;
    }
  }
}

void Daemon::reap() {
  for (;;) {
    int status = 0;
    pid_t pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED);
    if (pid < 0 && errno == EINTR) continue;
    if (pid <= 0) break;
    // Neither: a worker whose supervisor died, or, as PID 1 of a container, a stranger.
    const bool ended = WIFEXITED(status) || WIFSIGNALED(status);
    if (rehearsal_ && rehearsal_->child.pid == pid) {
      if (ended) on_rehearsed(status);
      continue;
    }
    auto is_its = [&](auto& pool) { return pool && pool->child_changed(pid, status); };
    bool ours = std::any_of(pools_.begin(), pools_.end(), is_its) ||
                std::any_of(leaving_.begin(), leaving_.end(), is_its) ||
                (reload_ && std::any_of(reload_->added.begin(), reload_->added.end(), is_its)) ||
                std::any_of(links_.begin(), links_.end(),
                            [&](auto& link) { return link->child_changed(pid, status); }) ||
                std::any_of(old_links_.begin(), old_links_.end(),
                            [&](auto& link) { return link->child_changed(pid, status); });
    if (!ours && ended) log_debug("reaped " + std::to_string(pid));
  }
  std::erase_if(old_links_, [](auto& link) { return !link->is_running(); });
  close_when_over();
}

// --- the end -------------------------------------------------------------------------------------

void Daemon::finish() {
  if (phase_ != Phase::kRunning) return;
  phase_ = Phase::kFinishing;
  log_info("stopping: connections in service are finished first");
  Nanoseconds longest = 0;
  for (const auto* pools : {&pools_, &leaving_})
    for (const auto& pool : *pools) longest = std::max(longest, pool->settings().drain_timeout);
  say_stopping(longest);
  if (reload_) roll_back("preforkd is stopping");
  finish_settling();
  tell_daemon_facts();
  for (auto& pool : pools_) pool->finish();
  end_timer_ = loop_.after(longest + kFinishGrace, [this] { stop_now(); });
  close_when_over();
}

void Daemon::stop_now() {
  if (phase_ == Phase::kClosing) return;
  if (phase_ == Phase::kRunning) log_info("stopping at once");
  phase_ = Phase::kFinishing;
  say_stopping(0);
  if (reload_) roll_back("preforkd is stopping");
  tell_daemon_facts();
  for (auto& pool : pools_) pool->stop_now();
  for (auto& pool : leaving_) pool->stop_now();
  loop_.cancel(end_timer_);
  end_timer_ = loop_.after(kStopGrace, [this] {
    for (auto& pool : pools_) pool->kill_all();
    for (auto& pool : leaving_) pool->kill_all();
  });
  close_when_over();
}

void Daemon::close_when_over() {
  if (std::any_of(leaving_.begin(), leaving_.end(),
                  [this](auto& pool) { return may_forget(*pool); })) {
    loop_.cancel(leavers_timer_);  // not at once: one of them may be telling us just now
    leavers_timer_ = loop_.after(0, [this] { forget_leavers(); });
  }
  if (phase_ == Phase::kFinishing && leaving_.empty() &&
      std::all_of(pools_.begin(), pools_.end(), [](auto& pool) { return pool->is_over(); })) {
    phase_ = Phase::kClosing;
    loop_.cancel(end_timer_);
    for (auto& link : links_) link->close();
    end_timer_ = loop_.after(kControlGrace, [this] {
      for (auto& link : links_) link->kill();
    });
  }
  if (phase_ == Phase::kClosing &&
      std::none_of(links_.begin(), links_.end(), [](auto& link) { return link->is_running(); })) {
    end_the_rest();
    loop_.stop();
  }
}

void Daemon::forget_leavers() {
  leavers_timer_ = {};
  std::erase_if(leaving_, [this](auto& pool) { return may_forget(*pool); });
  tell_daemon_facts();
  close_when_over();
}

bool Daemon::may_forget(const Pool& leaver) const {
  const bool returns =
      reload_ && std::count(reload_->returning.begin(), reload_->returning.end(), &leaver) > 0;
  return leaver.is_over() && !returns;
}

// Children that a program left in a session of its own, for instance: nothing of ours outlives us. What
// the process had for children before it became preforkd (by an exec) is none of ours.
void Daemon::end_the_rest() {
  for (int round = 0; round < kMostRounds; ++round) {
    std::vector<pid_t> left = own_children().value_or(std::vector<pid_t>{});
    std::erase_if(left, [this](pid_t pid) {
      return std::find(strangers_.begin(), strangers_.end(), pid) != strangers_.end();
    });
    if (left.empty()) return;
    for (pid_t pid : left) kill(pid, SIGKILL);
    for (pid_t pid : left)
      waitpid(pid, nullptr, 0);  // their children are adopted: the next round's
  }
}

// --- what others are told ------------------------------------------------------------------------

void Daemon::on_pool_changed(const std::string& name) {
  if (Pool* pool = find_pool(name)) tell_pool_facts(*pool);
  for (auto& pool : leaving_)
    if (pool->settings().name == name) tell_pool_facts(*pool);
  notify_state();
  if (settling_) look_whether_settled();
  close_when_over();
}

// One that was taken out of the file is shown as long as it drains; one that never got in, not at all.
std::vector<std::string> Daemon::shown_pools() const {
  std::vector<std::string> names;
  for (const auto& pool : pools_) names.push_back(pool->settings().name);
  for (const auto& pool : leaving_)
    if (pool->state() == PoolState::kDraining) names.push_back(pool->settings().name);
  return names;
}

void Daemon::greet(ControlLink& link) {
  link.tell_daemon(
      daemon_facts(started_, reloads_, control_gid_, phase_ != Phase::kRunning, shown_pools()));
  for (const auto* pools : {&pools_, &leaving_})
    for (const auto& pool : *pools) {
      link.tell_pool(pool_facts(*pool), pool->base());
      for (const Generation* g : pool->all_generations())
        link.tell_segment(pool->settings().name, g->number(), g->segment());
    }
}

void Daemon::tell_daemon_facts() {
  std::string json =
      daemon_facts(started_, reloads_, control_gid_, phase_ != Phase::kRunning, shown_pools());
  for (auto& link : links_) link->tell_daemon(json);
}

void Daemon::tell_pool_facts(const Pool& pool) {
  std::string json = pool_facts(pool);
  for (auto& link : links_) {
    for (const Generation* g : pool.all_generations())
      link->tell_segment(pool.settings().name, g->number(), g->segment());
    link->tell_pool(json, pool.base());
  }
}

namespace {
Pool* find_in(const std::vector<std::unique_ptr<Pool>>& pools, const std::string& name) {
  auto found = std::find_if(pools.begin(), pools.end(),
                            [&](const auto& pool) { return pool->settings().name == name; });
  return found == pools.end() ? nullptr : found->get();
}
}  // namespace

Pool* Daemon::find_pool(const std::string& name) { return find_in(pools_, name); }
Pool* Daemon::find_leaver(const std::string& name) { return find_in(leaving_, name); }

}  // namespace preforkd
