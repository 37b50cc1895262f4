#include "daemon/daemon.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <map>

#include "base/error.h"
#include "base/log.h"
#include "base/version.h"
#include "daemon/session.h"
#include "daemon/socket_store.h"
#include "daemon/start_signals.h"

namespace preforkd {
namespace {

// By pool: what is wrong with its files, and with its addresses, as one text. Where no pool serves, or will when an address
// comes (a standby has it later), the start has failed of that: adds to `errors`.
std::vector<std::string> troubles_of(const LoadedSettings& loaded,
                                     const std::vector<std::string>& files,
                                     const std::vector<NotHad>& addresses,
                                     std::vector<std::string>& errors) {
  bool any_may_serve = false;
  std::vector<std::string> all, troubles;
  for (size_t i = 0; i < loaded.settings.pools.size(); ++i) {
    const std::string &file = files[i], &address = addresses[i].reason;
    any_may_serve |= file.empty() && addresses[i].may_come;
    if (!file.empty()) all.push_back(file);
    if (!address.empty()) all.push_back("pool " + loaded.settings.pools[i].name + ": " + address);
    std::string& trouble = troubles.emplace_back();
    if (!file.empty())
      trouble = file + ": it is tried again; put it right (user " + loaded.users[i]->name +
                " may have changed it), or give the pool another and reload";
    if (!address.empty()) trouble += (file.empty() ? "" : "; ") + not_served(address);
  }
  if (!any_may_serve) errors.insert(errors.end(), all.begin(), all.end());
  return troubles;
}

void erase_used(std::vector<InheritedSocket>& inherited) {
  std::erase_if(inherited, [](const auto& socket) { return !socket.fd.is_open(); });
}

}  // namespace

Daemon::Daemon(const Paths& paths, const std::string& file, LoadedSettings loaded)
    : paths_(paths),
      in_force_(std::move(loaded)),
      started_(monotonic_now()),
      log_(loop_, paths_.log, in_force_.log_user.value()),
      pools_(loop_, *this, paths_),
      service_(loop_, pools_),
      control_(
          loop_, log_, paths_, in_force_, pools_,
          {.info = [this] { return info(); },
           .on_request = [this](const Request& r, std::string b) { on_request(r, std::move(b)); },
           .on_greeted = [this] { lost_files_.watch_control(); },
           .is_stopping = [this] { return !stop_.is_running(); },
           .is_reloading = [this] { return reload_.is_under_way(); }}),
      children_(loop_, pools_,
                [this] {
                  control_.forget_ended();
                  stop_.go_on();
                }),
      moves_(loop_, pools_, stop_,
             {.watch_files = [this] { lost_files_.watch_pools(); },
              .take_answer = [this] { return reload_.take_answer(); }}),
      lost_files_(loop_, pools_, control_, moves_, stop_,
                  {.is_busy = [this] { return reload_.is_under_way() || upgrade_.is_under_way(); },
                   .recycle =
                       [this](const std::string& pool, Reload::OnDone on_done) {
                         reload_.begin(pool, std::move(on_done), /*restores=*/true);
                       }}),
      reload_(loop_, paths_, file, in_force_, pools_, control_, log_, moves_, lost_files_, service_,
              stop_, [this] { show_status(); }),
      upgrade_(loop_, paths_, pools_, control_,
               {.obstacle = [this] { return obstacle_to_upgrade(); },
                .record = [this](uint32_t asked_by) { return record(asked_by); }}),
      stop_(loop_, pools_, control_, log_, children_, service_,
            {.end_reload = [this] { reload_.stop(); },
             .may_be_forgotten =
                 [this](const Pool& pool) { return pool.is_over() && !reload_.needs(pool); }}) {
  divide_children();
}

// Whose they are, in the order in which they are asked.
void Daemon::divide_children() {
  children_.add({.owns = [this](pid_t pid) { return upgrade_.owns(pid); },
                 .child_changed = [this](pid_t p, int s) { return upgrade_.child_changed(p, s); }});
  children_.add({.owns = [this](pid_t pid) { return reload_.owns(pid); },
                 .child_changed = [this](pid_t p, int s) { return reload_.child_changed(p, s); }});
  children_.add({.owns = [this](pid_t pid) { return log_.owns(pid); },
                 .child_changed = [this](pid_t p, int s) { return log_.child_changed(p, s); },
                 .leaves_nothing = [this]() -> const EffectiveUser& { return log_.user(); },
                 .goes_last = true});
  children_.add({.owns = [this](pid_t pid) { return control_.owns(pid); },
                 .child_changed = [this](pid_t p, int s) { return control_.child_changed(p, s); },
                 .leaves_nothing = [this]() -> const EffectiveUser& { return control_.user(); }});
  children_.add({.owns =
                     [this](pid_t pid) {
                       return pools_.any(
                           [pid](const Pool& pool) { return pool.owns(pid, getsid(pid)); });
                     },
                 .child_changed =
                     [this](pid_t pid, int status) {
                       return pools_.any([=](Pool& p) { return p.child_changed(pid, status); });
                     }});
}

Daemon::~Daemon() {
  stop_.end_failed_start();
  set_log_sink(log_to_stderr);
}

// --- start-up ------------------------------------------------------------------------------------

void Daemon::catch_signals() {
  children_.have_strangers(own_children().value_or(std::vector<pid_t>{}));
  // What a dead supervisor leaves is ours to reap, and to end.
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
    throw SysError("become child subreaper", errno);
  signal(SIGPIPE, SIG_IGN);
  sigset_t ours;
  sigemptyset(&ours);
  for (int s : kSignalsOfDaemon) sigaddset(&ours, s);
  sigprocmask(SIG_BLOCK, &ours, nullptr);
  signals_.reset(signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.is_open()) throw SysError("signalfd", errno);
  loop_.watch(signals_.get(), EPOLLIN, [this](uint32_t) { on_signals(); });
}

void Daemon::start_log() {
  log_.start();
  log_.take_lines();
}

void Daemon::open_sockets(std::vector<InheritedSocket> inherited,
                          const std::vector<std::string>& troubles) {
  const auto& pools = in_force_.settings.pools;
  std::vector<std::string> errors;
  std::vector<NotHad> not_had;
  std::map<std::string, EffectiveUser> users;
  for (size_t i = 0; i < pools.size(); ++i) users.emplace(pools[i].name, *in_force_.users[i]);
  auto stored = recover_stored(inherited, users);
  erase_used(inherited);
  Listeners free;
  for (const auto& [pool, listeners] : stored)
    free.insert(free.end(), listeners.begin(), listeners.end());
  Opening opening{pools, in_force_.names, free, inherited, errors};
  for (size_t i = 0; i < pools.size(); ++i) {
    const EffectiveUser& user = *in_force_.users[i];
    auto listeners = open_listeners(pools[i], user, stored[pools[i].name], opening);
    not_had.push_back(listen_at_start(listeners, pools[i]));
    to_start_.push_back({{pools[i], user, std::move(listeners), &log_}, ""});
  }
  const auto texts = troubles_of(in_force_, troubles, not_had, errors);
  for (size_t i = 0; i < pools.size(); ++i) to_start_[i].trouble = texts[i];
  for (const auto& unused : free) unstore_socket(*unused);
  erase_used(inherited);
  for (const auto& left : inherited)
    log_warning("systemd passed socket " + left.name + ", which no pool uses");
  reload_.keep_inherited(std::move(inherited));
  control_.open_sockets(errors);
  if (errors.empty()) return;
  for (size_t i = 0; i + 1 < errors.size(); ++i) log_error(errors[i]);
  throw std::runtime_error(errors.back());
}

void Daemon::start_pools() {
  service_.extend_while_starting(in_force_.settings);
  const auto to_start = std::exchange(to_start_, {});
  for (const ToStart& one : to_start) pools_.add(one.plan, log_level_of(in_force_.settings));
  for (size_t i = 0; i < to_start.size(); ++i) {
    Pool& pool = *pools_.configured()[i];
    pool.say_listening({});
    store_sockets(pool.settings().name, pool.listeners());
    pool.start(to_start[i].trouble);
  }
  moves_.wait_for_addresses();
  lost_files_.watch_pools();
}

void Daemon::start_control() {
  control_.start();
  service_.feed_watchdog();
}

bool Daemon::run() {
  stop_.note_started();
  show_status();
  loop_.run();
  return !service_.start_has_failed();
}

// --- signals -------------------------------------------------------------------------------------

// One a turn: with children that end all the time there is always another.
void Daemon::on_signals() {
  signalfd_siginfo info;
  if (read(signals_.get(), &info, sizeof info) != sizeof info) return;
  switch (info.ssi_signo) {
    case SIGCHLD:
      return children_.reap();
    case SIGTERM:
    case SIGQUIT:
      return stop_.is_running() ? stop_.finish() : stop_.stop_now();
    case SIGINT:
      return stop_.stop_now();
    case SIGHUP:
      control_.look_at_sockets();
      if (stop_.is_running()) reload_.begin({}, {});
      return;
    case SIGUSR2:
      reload_.give_way();
      return upgrade_.begin(0);
  }
}

// --- what others are told ------------------------------------------------------------------------

void Daemon::on_pool_changed(const std::string& name) {
  for (const Pool* pool : pools_.all())
    if (pool->settings().name == name) control_.tell_pool(*pool);
  show_status();
  moves_.on_pool_changed();
  reload_.on_pool_changed();
  stop_.go_on();
}

void Daemon::show_status() {
  if (stop_.is_finishing()) return service_.show_stopping();
  const bool all_are_there = pools_.configured().size() == in_force_.settings.pools.size();
  if (!all_are_there || !control_.is_started() || !stop_.is_running() || !reload_.is_idle()) return;
  if (!service_.show(!reload_.was_asked_for(), control_.path()))
    loop_.run_after(0, [this] { stop_.stop_now(); });  // not under the hands of the pool that tells
}

DaemonInfo Daemon::info() const {
  const auto& gid = in_force_.control_gid;
  return {.version = kVersion,
          .pid = getpid(),
          .uid = geteuid(),
          .started = started_,
          .reloads = reload_.succeeded(),
          .control_gid = gid ? int64_t{*gid} : -1,
          .stopping = !stop_.is_running(),
          .pools = pools_.shown_names()};
}

}  // namespace preforkd
