// The daemon's side of an upgrade in place: the rehearsal, the exec, and the taking over. The protocol is in
// daemon/takeover.h.
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <utility>
#include <vector>

#include "base/document.h"
#include "base/error.h"
#include "base/log.h"
#include "base/surroundings.h"
#include "base/version.h"
#include "conf/print.h"
#include "daemon/daemon.h"
#include "shm/region.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kRehearsal = 10 * kSecond;

std::string first_line(int fd) {
  char text[512];
  ssize_t n = read(fd, text, sizeof text);
  std::string all(text, n > 0 ? static_cast<size_t>(n) : 0);
  return all.substr(0, all.find('\n'));
}

}  // namespace

std::string Daemon::upgrade_trouble() const {
  if (phase_ != Phase::kRunning) return "preforkd is stopping";
  if (reload_ || settling_) return "a reload is under way";
  if (rehearsal_) return "an upgrade is under way";
  if (!notify_.all_is_sent()) return "systemd does not read what it is told";
  if (is_moving_) return "an address is on its way from one pool to another";
  for (const auto& pool : pools_)
    if (pool->waits_for_others())
      return "pool " + pool->settings().name + " waits for an address that others have yet" +
             (pool->reason().empty() ? "" : ": " + pool->reason());
  for (const auto& pool : leaving_)
    return "pool " + pool->settings().name + ", taken out of the configuration, is still draining";
  return "";
}

// A child of the new binary says whether it can read the state as it will have to. It has copies of nothing but the
// document.
void Daemon::upgrade(uint32_t asked_by) {
  restoring_gives_way();
  std::string refusal = upgrade_trouble();
  if (refusal.empty()) {
    try {
      auto r = std::make_unique<Rehearsal>();
      UniqueFd document = make_document(to_json(record(asked_by)));
      int ends[2];
      if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) throw SysError("pipe", errno);
      UniqueFd write_end(ends[1]);
      r->output.reset(ends[0]);
      r->asked_by = asked_by;
      r->image.reset(open(paths_.daemon.c_str(), O_PATH | O_CLOEXEC));
      if (!r->image.is_open()) throw SysError("start " + paths_.daemon, errno);
      Launch what;
      what.executable = paths_.daemon;
      what.image = r->image.get();
      what.argv = {"preforkd: rehearsal", "--rehearse", "3"};
      what.descriptors = {document.get()};
      what.output = write_end.get();
      r->child = launch(what);
      r->timer = loop_.after(kRehearsal, [this] { rehearsal_->child.signal(SIGKILL); });
      rehearsal_ = std::move(r);
      return;
    } catch (const std::exception& e) {
      refusal = e.what();
    }
  }
  log_error("upgrade refused, nothing has happened: " + refusal, Event::kUpgradeRefused);
  if (asked_by) links_.front()->answer(asked_by, 409, refusal);
}

void Daemon::on_rehearsed(int status) {
  const auto rehearsed = std::move(rehearsal_);
  const uint32_t asked_by = rehearsed->asked_by;
  const auto failure = rehearsed->child.failure();
  const std::string said = failure ? failure->text() : first_line(rehearsed->output.get());
  std::string refusal;
  if (status != 0)
    refusal = said.empty() ? "the rehearsal: " + ending_text(status) : said;
  else if (said != kCanTakeOver)
    refusal = paths_.daemon + " did not say that it can take over";
  else
    refusal = upgrade_trouble();
  if (refusal.empty()) {
    try {
      exec_next_image(*rehearsed);
    } catch (const std::exception& e) {
      refusal = e.what();
    }
  }
  // Still here.
  log_error("upgrade refused, nothing has happened: " + refusal, Event::kUpgradeRefused);
  if (asked_by) links_.front()->answer(asked_by, 409, refusal);
}

void Daemon::exec_next_image(const Rehearsal& rehearsed) {
  UniqueFd old_image(open("/proc/self/exe", O_PATH | O_CLOEXEC));
  if (!old_image.is_open()) throw SysError("open /proc/self/exe", errno);
  log_notice("upgrading: executing " +
             paths_.daemon);  // (it may wait for who writes it: so before)
  for (const auto& pool : pools_) pool->say_put_off();
  // Whoever takes over does not know of them.
  for (const auto& link : old_links_) link->kill("has not ended before the upgrade");
  DaemonRecord state = record(rehearsed.asked_by);
  state.old_image = old_image.get();
  UniqueFd document = make_document(to_json(state));
  std::string program = "preforkd", option = "--takeover", number = std::to_string(document.get());
  char* argv[] = {program.data(), option.data(), number.data(), nullptr};
  keep_over_exec(state, true);
  fcntl(document.get(), F_SETFD, 0);
  hand_on_surroundings();
  syscall(SYS_execveat, rehearsed.image.get(), "", argv, environ, AT_EMPTY_PATH);
  const int error = errno;
  take_surroundings_back();
  keep_over_exec(state, false);
  throw SysError("execute " + paths_.daemon, error);
}

DaemonRecord Daemon::record(uint32_t asked_by) const {
  DaemonRecord r;
  r.layout = shm::kLayoutVersion;
  r.version = kVersion;
  r.called = paths_.daemon;
  r.held = paths_.held();
  r.asked_by = asked_by;
  r.file = file_;
  r.runtime = paths_.runtime;
  r.settings = print_settings(settings_);
  r.control_path = control_path_.record();
  r.users = users_;
  r.control_user = control_user_;
  r.log_user = log_user_;
  r.control_gid = control_gid_;
  r.started = started_;
  r.reloads = reloads_;
  r.reloads_asked = reloads_asked_;
  r.refusal = refusal_;
  r.said_ready = said_ready_;
  r.strangers.assign(strangers_.begin(), strangers_.end());
  std::vector<std::shared_ptr<Listener>> all;
  auto index = [&](const std::shared_ptr<Listener>& listener) {
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i] == listener) return i;
    all.push_back(listener);
    r.listeners.push_back(listener->record());
    return all.size() - 1;
  };
  for (const auto& pool : pools_) r.pools.push_back(pool->record(index));
  for (const auto& socket : inherited_)
    if (socket.fd.is_open())
      r.unused.push_back({socket.fd.get(), socket.name, "", {}, true, 0, "", true, 0});
  for (const auto& link : links_) r.links.push_back(link->record());
  r.log = log_.record();
  return r;
}

namespace {

// Descriptors that something is about to take over. Should it fail, and close them on its way, they are put back in
// their places: the image before needs them once more.
class PutBackOnFailure {
 public:
  // The image before, which has taken over again, has none to fall back to.
  PutBackOnFailure(const DaemonRecord& record, const std::vector<int>& fds) {
    if (!record.failure.empty()) return;
    for (int fd : fds) {
      if (fd < 0) continue;
      UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
      if (!copy.is_open()) throw SysError("keep descriptors for the image before", errno);
      copies_.emplace_back(fd, std::move(copy));
    }
  }
  ~PutBackOnFailure() {
    if (std::uncaught_exceptions() == exceptions_before_) return;
    for (const auto& [fd, copy] : copies_) dup2(copy.get(), fd);
  }
  PutBackOnFailure(const PutBackOnFailure&) = delete;
  PutBackOnFailure& operator=(const PutBackOnFailure&) = delete;

 private:
  const int exceptions_before_ = std::uncaught_exceptions();
  std::vector<std::pair<int, UniqueFd>> copies_;
};

// Their end would remove the files of sockets: after a failure there is none, but the exec of the image before.
struct KeepOnFailure {
  const Listeners& listeners;
  const int exceptions_before = std::uncaught_exceptions();

  ~KeepOnFailure() {
    if (std::uncaught_exceptions() != exceptions_before) new Listeners(listeners);
  }
};

std::vector<int> descriptors_of(const PoolRecord& pool) {
  std::vector<int> fds;
  for (const auto& g : pool.generations)
    fds.insert(fds.end(), {g.orders, g.reports, g.segment, g.log.read_end});
  return fds;
}

}  // namespace

void Daemon::take_over(const DaemonRecord& r) {
  ran_ = true;  // an error from now on must end nobody
  log_.resume(r.log);
  speak_through_log();
  strangers_.assign(r.strangers.begin(), r.strangers.end());
  control_path_ = SocketPath(r.control_path);
  started_ = r.started;
  reloads_ = r.reloads;
  reloads_asked_ = r.reloads_asked;
  refusal_ = r.refusal;
  said_ready_ = r.said_ready;
  if (!said_ready_) extend_while_starting(settings_);
  std::vector<int> sockets;
  for (const ListenerRecord& l : r.listeners) sockets.push_back(l.fd);
  const PutBackOnFailure kept_sockets(r, sockets);  // (Its end comes after that of all of them.)
  Listeners all;
  const KeepOnFailure kept_files{all};
  for (const ListenerRecord& l : r.listeners)
    all.push_back(std::make_shared<Listener>(Listener::restore(l)));
  for (const ListenerRecord& l : r.unused) inherited_.push_back({UniqueFd(l.fd), l.wanted});
  LogLevel level = LogLevel::kInfo;
  log_level_from_name(settings_.log_level, level);
  PoolOwner& owner = *this;
  for (size_t i = 0; i < r.pools.size(); ++i) {
    Listeners listeners;
    for (size_t at : r.pools[i].listeners) {
      all.at(at)->has_options(settings_.pools.at(i).tcp);
      listeners.push_back(all.at(at));
    }
    const PutBackOnFailure kept(r, descriptors_of(r.pools[i]));
    pools_.push_back(std::make_unique<Pool>(
        loop_, owner, paths_,
        PoolPlan{settings_.pools.at(i), users_.at(i), std::move(listeners), &log_}, level,
        r.pools[i], all));
    has_taken_a_step();
  }
  for (const LinkRecord& link : r.links) {
    const PutBackOnFailure kept(r, {link.listen, link.news, link.requests, link.log.read_end});
    links_.push_back(make_link(link.web ? ControlLink::Kind::kWeb : ControlLink::Kind::kFull,
                               UniqueFd(link.listen)));
    links_.back()->resume(link);
    has_taken_a_step();
  }
  for (auto& pool : pools_) {
    pool->go_on();
    has_taken_a_step();
  }
  feed_watchdog();
  // From here on the image before could not take over again.
  loop_.run_after(0, [this, r] { taken_over(r); });
}

void Daemon::taken_over(const DaemonRecord& r) {
  reap();  // who ended meanwhile: the signal may have been taken by the image before
  watch_files();
  wait_for_addresses();
  if (lacks_web()) start_web_later();
  // Of all that may be asked, limits alone have no answer during an upgrade; they are in force, and told again.
  for (auto& link : links_) link->answer_all_but(r.asked_by, 200);
  const std::string now = std::string("preforkd ") + kVersion;
  if (r.failure.empty()) {
    log_notice("upgraded from " + r.version + " to " + now, Event::kUpgraded);
    if (r.layout != shm::kLayoutVersion)
      log_notice("figures of what runs are in another layout (" + std::to_string(r.layout) +
                 ") than " + now + " reads (" + std::to_string(shm::kLayoutVersion) +
                 "): pools serve on, and are counted anew once they are recycled");
    log_.renew();
  } else {
    log_error("upgrade failed, " + now + " goes on: " + r.failure, Event::kUpgradeRefused);
  }
  // (Also after a failed one: a process that has not got a socket that was made anew would go without it.)
  for (auto& link : links_) link->renew(r.layout != shm::kLayoutVersion);
  if (r.asked_by)
    links_.front()->answer(r.asked_by, r.failure.empty() ? 200 : 409,
                           r.failure.empty() ? "upgraded to " + now : r.failure);
}

}  // namespace preforkd
