// The daemon over an upgrade in place (daemon/takeover.h): what is written down of it, and how it goes on from that.
#include <exception>

#include "base/log.h"
#include "base/version.h"
#include "conf/print.h"
#include "daemon/daemon.h"
#include "shm/region.h"

namespace preforkd {
namespace {

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

std::vector<int> sockets_of(const DaemonRecord& r) {
  std::vector<int> fds;
  for (const ListenerRecord& l : r.listeners) fds.push_back(l.fd);
  return fds;
}

}  // namespace

std::string Daemon::obstacle_to_upgrade() const {
  if (!stop_.is_running()) return "preforkd is stopping";
  if (!reload_.is_idle()) return "a reload is under way";
  if (!service_.all_is_sent()) return "systemd does not read what it is told";
  return moves_.is_moving() ? "an address is on its way from one pool to another" : "";
}

DaemonRecord Daemon::record(uint32_t asked_by) const {
  DaemonRecord r;
  r.layout = shm::kLayoutVersion;
  r.version = kVersion;
  r.called = paths_.daemon;
  r.held = paths_.held();
  r.asked_by = asked_by;
  r.runtime = paths_.runtime;
  r.settings = print_settings(in_force_.settings);
  for (const auto& user : in_force_.users) r.users.push_back(user.value());
  r.log_user = log_.user();
  r.control_gid = info().control_gid;
  r.started = started_;
  r.refusal = service_.refusal();
  r.said_ready = service_.has_said_ready();
  r.strangers.assign(children_.strangers().begin(), children_.strangers().end());
  Listeners all;
  auto index = [&](const std::shared_ptr<Listener>& listener) {
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i] == listener) return i;
    all.push_back(listener);
    r.listeners.push_back(listener->record());
    return all.size() - 1;
  };
  for (const auto& pool : pools_.configured()) r.pools.push_back(pool->record(index));
  reload_.record(r);
  control_.record(r);
  r.log = log_.record();
  return r;
}

void Daemon::take_over(const DaemonRecord& r) {
  stop_.note_started();  // an error from now on must end nobody
  log_.resume(r.log);
  log_.take_lines();
  children_.have_strangers({r.strangers.begin(), r.strangers.end()});
  started_ = r.started;
  reload_.resume(r);
  service_.resume(r.refusal, r.said_ready);
  if (!r.said_ready) service_.extend_while_starting(in_force_.settings);
  // (Its end comes after that of all of them.)
  const PutBackOnFailure kept_sockets(r, sockets_of(r));
  Listeners all;
  const KeepOnFailure kept_files{all};
  take_over_pools(r, all);
  control_.resume(r, has_taken_a_step);
  for (const auto& pool : pools_.configured()) {
    pool->go_on();
    has_taken_a_step();
  }
  service_.feed_watchdog();
  // From here on the image before could not take over again.
  loop_.run_after(0, [this, r] { taken_over(r); });
}

void Daemon::take_over_pools(const DaemonRecord& r, Listeners& all) {
  for (const ListenerRecord& l : r.listeners)
    all.push_back(std::make_shared<Listener>(Listener::restore(l)));
  for (size_t i = 0; i < r.pools.size(); ++i) {
    const PoolSettings& settings = in_force_.settings.pools.at(i);
    PoolPlan plan{settings, in_force_.users.at(i).value(), {}, &log_};
    for (size_t at : r.pools[i].listeners) {
      all.at(at)->has_options(settings.tcp);
      plan.listeners.push_back(all.at(at));
    }
    const PutBackOnFailure kept(r, descriptors_of(r.pools[i]));
    pools_.add(std::move(plan), log_level_of(in_force_.settings), r.pools[i], all);
    has_taken_a_step();
  }
}

void Daemon::taken_over(const DaemonRecord& r) {
  children_.reap();  // who ended meanwhile: the signal may have been taken by the image before
  lost_files_.watch_pools();
  moves_.wait_for_addresses();
  const std::string now = std::string("preforkd ") + kVersion;
  const bool reads_figures = r.layout == shm::kLayoutVersion;
  if (r.failure.empty()) {
    log_notice("upgraded from " + r.version + " to " + now, Event::kUpgraded);
    if (!reads_figures)
      log_notice("figures of what runs are in another layout (" + std::to_string(r.layout) +
                 ") than " + now + " reads (" + std::to_string(shm::kLayoutVersion) +
                 "): pools serve on, and are counted anew once they are recycled");
    log_.renew();
  } else {
    log_error("upgrade failed, " + now + " goes on: " + r.failure, Event::kUpgradeRefused);
  }
  // (Also after a failed one: a process that has not got a socket that was made anew would go without it.)
  control_.resumed(r.asked_by, /*hands_in=*/!reads_figures);
  if (r.asked_by)
    control_.answer(r.asked_by, r.failure.empty() ? 200 : 409,
                    r.failure.empty() ? "upgraded to " + now : r.failure);
}

}  // namespace preforkd
