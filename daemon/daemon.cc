#include "daemon/daemon.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "base/log.h"
#include "base/refuse_rights.h"
#include "base/version.h"
#include "daemon/file_step.h"
#include "daemon/pool_info.h"
#include "daemon/session.h"
#include "daemon/socket_store.h"
#include "daemon/start_signals.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kWebAgain = kSecond;

LogLink* log_target = nullptr;  // for the log sink, which takes no context

}  // namespace

Daemon::Daemon(const Paths& paths, std::string file, LoadedSettings loaded)
    : paths_(paths),
      file_(std::move(file)),
      settings_(std::move(loaded.settings)),
      names_(std::move(loaded.names)),
      control_user_(loaded.control_user.value()),
      started_(monotonic_now()),
      control_gid_(loaded.control_gid ? int64_t{*loaded.control_gid} : -1),
      log_user_(loaded.log_user.value()),
      log_(loop_, paths_.log, log_user_) {
  for (const auto& user : loaded.users) users_.push_back(user.value());
}

Daemon::~Daemon() {
  if (!ran_) {  // a start that failed half-way leaves nothing running
    end_the_rest();
    log_.close_and_wait();
  }
  set_log_sink(log_to_stderr);
  links_.clear();
  pools_.clear();
  control_path_.remove();
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
  for (int s : kSignalsOfDaemon) sigaddset(&ours, s);
  sigprocmask(SIG_BLOCK, &ours, nullptr);
  signals_.reset(signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.is_open()) throw SysError("signalfd", errno);
  loop_.watch(signals_.get(), EPOLLIN, [this](uint32_t) { on_signals(); });
}

void Daemon::start_log() {
  log_.start();
  speak_through_log();
}

void Daemon::speak_through_log() {
  log_target = &log_;
  set_log_sink([](const LogLine& line) { log_target->add(line); });
}

void Daemon::open_sockets(std::vector<InheritedSocket> inherited,
                          const std::vector<std::string>& troubles) {
  std::vector<std::string> errors;
  std::vector<NotHad> not_had;
  inherited_ = std::move(inherited);
  std::map<std::string, EffectiveUser> users;
  for (size_t i = 0; i < users_.size(); ++i) users.emplace(settings_.pools[i].name, users_[i]);
  auto stored = recover_stored(inherited_, users);
  std::erase_if(inherited_, [](const auto& socket) { return !socket.fd.is_open(); });
  Listeners free;
  for (const auto& [pool, listeners] : stored)
    free.insert(free.end(), listeners.begin(), listeners.end());
  Opening opening{settings_.pools, names_, free, inherited_, errors};
  for (size_t i = 0; i < users_.size(); ++i) {
    opened_.push_back(
        open_listeners(settings_.pools[i], users_[i], stored[settings_.pools[i].name], opening));
    not_had.push_back(listen_at_start(opened_.back(), settings_.pools[i]));
  }
  note_troubles(troubles, not_had, errors);
  for (const auto& unused : free) unstore_socket(*unused);
  std::erase_if(inherited_, [](const auto& socket) { return !socket.fd.is_open(); });
  for (const auto& left : inherited_)
    log_warning("systemd passed socket " + left.name + ", which no pool uses");

  // The control socket: one that answers belongs to another preforkd.
  std::string path = settings_.control.socket.empty() ? paths_.runtime + "/control.sock"
                                                      : settings_.control.socket;
  ListenAddress address;
  address.kind = ListenAddress::Kind::kUnix;
  address.path = path;
  try {
    Listener listener = Listener::open(address, kControlBacklog);
    control_path_ = listener.path();
    control_socket_ = listener.release_fd();
    refuse_rights(control_socket_.get());
  } catch (const std::exception& e) {
    errors.push_back(std::string("control: ") + e.what());
  }
  // Before the code of any pool runs, which could take it.
  if (!settings_.control.web.empty()) web_socket_ = listen_for_web();
  if (errors.empty()) return;
  for (size_t i = 0; i + 1 < errors.size(); ++i) log_error(errors[i]);
  throw std::runtime_error(errors.back());
}

// By pool: what is wrong with its files, and with its addresses. Where no pool serves, or will when an address comes (a
// standby has it later), the start has failed of that.
void Daemon::note_troubles(const std::vector<std::string>& files,
                           const std::vector<NotHad>& addresses, std::vector<std::string>& errors) {
  bool any_may_serve = false;
  std::vector<std::string> all;
  for (size_t i = 0; i < users_.size(); ++i) {
    const std::string &file = files[i], &address = addresses[i].reason;
    any_may_serve |= file.empty() && addresses[i].may_come;
    if (!file.empty()) all.push_back(file);
    if (!address.empty()) all.push_back("pool " + settings_.pools[i].name + ": " + address);
    std::string& trouble = troubles_.emplace_back();
    if (!file.empty())
      trouble = file + ": it is tried again; put it right (user " + users_[i].name +
                " may have changed it), or give the pool another and reload";
    if (!address.empty()) trouble += (file.empty() ? "" : "; ") + not_served(address);
  }
  if (!any_may_serve) errors.insert(errors.end(), all.begin(), all.end());
}

void Daemon::start_pools() {
  extend_while_starting(settings_);
  for (size_t i = 0; i < settings_.pools.size(); ++i)
    pools_.push_back(make_pool({settings_.pools[i], users_[i], std::move(opened_[i]), &log_}));
  opened_.clear();
  for (size_t i = 0; i < pools_.size(); ++i) {
    Pool& pool = *pools_[i];
    say_listening(pool, {});
    store_sockets(pool.settings().name, pool.listeners());
    pool.start(troubles_[i]);
  }
  wait_for_addresses();
  watch_files();
}

std::unique_ptr<Pool> Daemon::make_pool(PoolPlan plan) {
  LogLevel level = LogLevel::kInfo;
  log_level_from_name(settings_.log_level, level);
  PoolOwner& owner = *this;
  return std::make_unique<Pool>(loop_, owner, paths_, std::move(plan), level);
}

void Daemon::say_listening(const Pool& pool, const Listeners& before) {
  for (const auto& listener : pool.listeners())
    if (!contains(before, listener) && listener->is_listening())
      log({LogLevel::kInfo, pool.settings().name, 0, "listening on " + listener->address()});
}

void Daemon::start_control() {
  links_.push_back(make_link(ControlLink::Kind::kFull, std::move(control_socket_)));
  links_.back()->start();
  if (lacks_web()) start_web(std::move(web_socket_));
  feed_watchdog();
}

// --- control.web ---------------------------------------------------------------------------------
// Whoever has taken its port keeps nobody from being served: the page comes later.

bool Daemon::lacks_web() const { return !settings_.control.web.empty() && links_.size() == 1; }

// Not open: it cannot be had, and why is said once.
UniqueFd Daemon::listen_for_web() {
  UniqueFd socket;
  std::string trouble;
  try {
    const auto web = parse_listen_address(settings_.control.web, trouble);
    if (!web) throw std::runtime_error(trouble);
    socket = Listener::open(with_numbers(*web, names_).front(), kControlBacklog).release_fd();
  } catch (const std::exception& e) {
    trouble = e.what();
  }
  if (!trouble.empty() && trouble != web_trouble_)
    log_error("control.web: " + trouble +
              ": pools serve without the page; it is tried again each second");
  web_trouble_ = trouble;
  return socket;
}

void Daemon::start_web(UniqueFd socket) {
  if (!socket.is_open()) return start_web_later();
  links_.push_back(make_link(ControlLink::Kind::kWeb, std::move(socket)));
  links_.back()->start_again();
}

void Daemon::start_web_later() {
  web_timer_ = loop_.after(kWebAgain, [this] {
    if (phase_ != Phase::kRunning || !lacks_web()) return;
    if (reload_) return start_web_later();  // which may change it
    UniqueFd socket = listen_for_web();
    if (socket.is_open()) log_notice("control.web: listening on " + settings_.control.web);
    start_web(std::move(socket));
  });
}

std::unique_ptr<ControlLink> Daemon::make_link(ControlLink::Kind kind, UniqueFd socket) {
  const bool is_web = kind == ControlLink::Kind::kWeb;
  ControlLink::Calls calls;
  calls.greet = [this, is_web](ControlLink& link) {
    greet(link);
    if (!is_web) loop_.run_after(0, [this] { watch_control(); });  // its socket may be a new one
  };
  calls.on_request = [this](const Request& r, std::string bytes) {
    on_request(r, std::move(bytes));
  };
  if (!is_web && settings_.control.socket.empty())
    calls.make_folder = [folder = paths_.runtime] {
      in_file_system("make runtime directory " + folder, folder, -1, [&] {
        make_runtime_directory(folder);
        return FileId{};
      });
    };
  return std::make_unique<ControlLink>(
      loop_, log_, kind, paths_.control, std::move(socket), is_web ? nullptr : &control_path_,
      control_user_, settings_.log_level,
      is_web ? settings_.control.hosts : std::vector<std::string>{}, std::move(calls));
}

bool Daemon::run() {
  ran_ = true;
  notify_state();
  loop_.run();
  return !start_failed_;
}

// --- signals -------------------------------------------------------------------------------------

// One a turn: with children that end all the time there is always another.
void Daemon::on_signals() {
  signalfd_siginfo info;
  if (read(signals_.get(), &info, sizeof info) == sizeof info) {
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
        for (auto& link : links_) link->look_at_socket();
        if (phase_ == Phase::kRunning) reload({}, {});
        break;
      case SIGUSR2:
        upgrade(0);
        break;
    }
  }
}

// --- what others are told ------------------------------------------------------------------------

void Daemon::on_pool_changed(const std::string& name) {
  if (Pool* pool = find_pool(name)) tell_pool_info(*pool);
  for (auto& pool : leaving_)
    if (pool->settings().name == name) tell_pool_info(*pool);
  notify_state();
  if (is_moving_) move_soon();
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

DaemonInfo Daemon::info() const {
  return {.version = kVersion,
          .pid = getpid(),
          .uid = geteuid(),
          .started = started_,
          .reloads = reloads_,
          .control_gid = control_gid_,
          .stopping = phase_ != Phase::kRunning,
          .pools = shown_pools()};
}

void Daemon::greet(ControlLink& link) {
  link.tell_daemon(to_json(info()));
  for (const auto* pools : {&pools_, &leaving_})
    for (const auto& pool : *pools) {
      for (const Generation* g : pool->all_generations())  // before they are named: control/pools.h
        link.tell_segment(pool->settings().name, g->number(), g->segment());
      link.tell_pool(to_json(pool_info(*pool)), pool->base());
    }
}

void Daemon::tell_daemon_info() {
  const std::string json = to_json(info());
  for (auto& link : links_) link->tell_daemon(json);
}

void Daemon::tell_pool_info(const Pool& pool) {
  const std::string json = to_json(pool_info(pool));
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
