#include "daemon/reload.h"

#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "conf/print.h"
#include "daemon/socket_store.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kHandOver = 2 * kSecond;
constexpr Nanoseconds kHandOverWithMoves = 10 * kSecond;  // more than they take (daemon/moves.h)
constexpr Nanoseconds kLoadGrace =
    10 * kSecond;  // beyond the loading's deadline, for what comes then

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

}  // namespace

LogLevel log_level_of(const Settings& settings) {
  LogLevel level = LogLevel::kInfo;
  log_level_from_name(settings.log_level, level);
  return level;
}

Reload::Reload(EventLoop& loop, const Paths& paths, std::string file, LoadedSettings& in_force,
               PoolSet& pools, ControlProcesses& control, LogLink& log, AddressMoves& moves,
               LostFiles& lost_files, ServiceStatus& service, Calls calls)
    : loop_(loop),
      paths_(paths),
      file_(std::move(file)),
      in_force_(in_force),
      pools_(pools),
      control_(control),
      log_(log),
      moves_(moves),
      lost_files_(lost_files),
      service_(service),
      calls_(std::move(calls)) {}

void Reload::begin(const std::string& recycled_pool, OnDone on_done, bool restores) {
  if (!restores) give_way();
  if (is_under_way() || moves_.is_moving()) {
    if (!on_done) again_ = true;
    if (on_done) on_done("a reload is under way");
    return;
  }
  if (const Pool* pool = pools_.find(recycled_pool); pool && !pool->is_serving())
    return on_done("pool " + recycled_pool + " is " + pool_state_name(pool->state()));
  finish_handing_over();  // of the one before
  ++asked_;
  attempt_ = {};
  attempt_.on_done = std::move(on_done);
  attempt_.recycled = recycled_pool;
  attempt_.restores = restores;
  attempt_.what = !recycled_pool.empty() ? "Recycling " + recycled_pool
                  : file_.empty()        ? "Reloading the built-in configuration"
                                         : "Reloading " + file_;
  service_.begin_reload(attempt_.what);
  stage_ = Stage::kLoading;
  if (recycled_pool.empty()) return load();
  attempt_.loaded.settings = in_force_.settings;
  attempt_.loaded.users = in_force_.users;
  on_loaded({});
}

void Reload::give_way() {
  if (is_under_way() && attempt_.restores)
    roll_back("it gives way to what was asked for, and is tried again");
}

void Reload::stop() {
  if (is_under_way()) roll_back("preforkd is stopping");
  finish_handing_over();
}

void Reload::load() {
  Loading::Calls calls;
  calls.on_loaded = [this](LoadedSettings loaded, std::vector<std::string> errors) {
    attempt_.loading.reset();
    attempt_.loaded = std::move(loaded);
    on_loaded(std::move(errors));
  };
  calls.on_deadline = [this](Nanoseconds deadline) {
    service_.extend_until(deadline + kLoadGrace);
  };
  try {
    attempt_.loading = std::make_unique<Loading>(
        loop_, paths_, file_, InForce{bound_entries(), print_settings(in_force_.settings)},
        std::move(calls));
  } catch (const std::exception& e) {
    on_loaded({e.what()});
  }
}

BoundEntries Reload::bound_entries() const {
  BoundEntries bound;
  for (const auto& pool : pools_.configured())
    for (const auto& listener : pool->listeners())
      bound[pool->settings().name].push_back(listener->wanted());
  bound[""].push_back(in_force_.settings.control.web);
  return bound;
}

void Reload::on_loaded(std::vector<std::string> errors) {
  if (errors.empty()) prepare(attempt_, errors);
  if (errors.empty()) return count_workers();
  Attempt refused = std::exchange(attempt_, {});
  stage_ = Stage::kIdle;
  pools_.turn_away();
  end(std::move(refused.on_done), joined(errors), refused.recycled);
}

// Each takes over with as many workers as there are.
void Reload::count_workers() {
  stage_ = Stage::kCounting;
  service_.extend_while_starting(attempt_.loaded.settings);
  std::vector<Pool*> tried;
  for (const PoolChange& change : attempt_.changes)
    if (change.needs_trial) tried.push_back(change.pool);
  const auto waiting = std::make_shared<size_t>(1 + tried.size());
  // (By its number: another reload may be under way by then.)
  auto counted = [this, waiting, asked = asked_] {
    if (--*waiting > 0 || stage_ != Stage::kCounting || asked_ != asked) return;
    // From a timer: a supervisor that dies answers, too, in the midst of something.
    next_timer_ = loop_.after(0, [this] { start_trials(); });
  };
  for (Pool* pool : tried) pool->count_workers(counted);
  counted();
}

void Reload::start_trials() {
  stage_ = Stage::kTrying;
  Attempt& a = attempt_;
  ++a.undecided;  // until all are launched
  std::string tried;
  for (size_t i = 0; i < a.changes.size() && a.trouble.empty(); ++i) {
    const auto& [plan, pool, is_new, needs_trial] = a.changes[i];
    if (!needs_trial) continue;
    const Limits limits = a.recycles() ? pool->limits() : plan.settings.limits;
    try {
      pool->try_out(
          plan, limits, a.recycles(),
          [this, i](const std::string& why, const std::string& key) { on_verdict(i, why, key); });
      ++a.undecided;
      tried += (tried.empty() ? ": trying out " : ", ") + plan.settings.name;
    } catch (const std::exception& e) {
      a.trouble = std::string("pool ") + plan.settings.name + ": " + e.what();
    }
  }
  --a.undecided;
  if (!a.trouble.empty())
    roll_back(a.trouble);
  else if (a.undecided == 0)
    commit();
  else
    service_.show(a.what + tried);
}

void Reload::on_verdict(size_t index, const std::string& reason, const std::string& key) {
  Attempt& a = attempt_;
  const PoolSettings& pool = a.changes[index].plan.settings;
  if (!reason.empty()) {
    const std::string blamed = key.empty() ? pool.server_key() : key;
    const std::string where = a.recycles() ? "" : a.loaded.where(index, blamed) + ": ";
    return roll_back(where + "pool " + pool.name + ": " +
                     (key.empty() ? "the new generation failed: " : "") + reason);
  }
  log({LogLevel::kInfo, pool.name, 0, "the new generation has passed its trial"});
  if (--a.undecided == 0) commit();
}

// --- the commit ----------------------------------------------------------------------------------

void Reload::commit() {
  Attempt a = std::exchange(attempt_, {});
  stage_ = Stage::kHandingOver;
  commit_pools(a);
  for (size_t i = 0; i < inherited_.size(); ++i)
    if (!a.inherited[i].fd.is_open()) inherited_[i].fd.reset();
  std::erase_if(inherited_, [](const auto& socket) { return !socket.fd.is_open(); });
  if (!a.recycles()) commit_settings(a);
  commit_web(a.web);
  control_.tell_all();
  log({LogLevel::kInfo, a.recycled, 0, a.recycles() ? "recycled" : "reloaded " + a.loaded.file,
       Event::kReloaded});
  answer_ = [this, on_done = std::move(a.on_done)](const std::string& trouble) {
    end(
        [&](const std::string&) {
          if (on_done) on_done(trouble);
        },
        "");
  };
  moves_.begin(a.before);
  for (const auto& listener : a.without_file) lost_files_.on_changed(listener);
  hand_over_in_time();
  on_pool_changed();
}

void Reload::commit_pools(Attempt& a) {
  Listeners after;
  std::vector<Pool*> next;
  for (const PoolChange& change : a.changes) {
    after.insert(after.end(), change.plan.listeners.begin(), change.plan.listeners.end());
    next.push_back(change.pool);
  }
  for (const auto& pool : pools_.configured()) pool->forget_listeners();
  for (PoolChange& change : a.changes) commit_pool(a, change, after);
  for (Pool* pool : pools_.arrange(next)) {
    for (const auto& listener : pool->listeners())
      if (!contains(after, listener)) unstore_socket(*listener);
    log({LogLevel::kNotice, pool->settings().name, 0, "taken out of the configuration: draining"});
    pool->finish(after);
  }
  for (const auto& pool : pools_.configured()) pool->watch_listeners();
}

void Reload::commit_pool(Attempt& a, PoolChange& change, const Listeners& after) {
  Pool& pool = *change.pool;
  Listeners dropped;
  if (!change.is_new) {
    dropped = pool.listeners();
    std::erase_if(dropped, [&](const auto& listener) { return contains(after, listener); });
  }
  for (const auto& listener : dropped) unstore_socket(*listener);
  store_sockets(pool.settings().name, change.plan.listeners);
  if (change.needs_trial)
    pool.promote(dropped, a.recycles());
  else if (!a.recycles())
    pool.adopt(change.plan, dropped);
  pool.say_listening(a.before);
}

void Reload::commit_settings(Attempt& a) {
  in_force_.settings = a.loaded.settings;
  in_force_.names = a.loaded.names;
  in_force_.users = a.loaded.users;
  in_force_.control_gid = a.loaded.control_gid;
  const LogLevel level = log_level_of(in_force_.settings);
  set_log_level(level);
  for (const auto& pool : pools_.configured()) pool->set_log_level(level);
  ++succeeded_;
}

// The page's socket may have moved; the socket that commands come from has not.
void Reload::commit_web(WebChange& web) {
  const bool wanted = !in_force_.settings.control.web.empty();
  if (wanted && !web.socket.is_open() && !web.comes_later) return;  // as it was
  if (control_.has_web()) control_.end_web(/*keeps_socket=*/web.stays);
  if (wanted) control_.start_web(std::move(web.socket));
}

// --- the end -------------------------------------------------------------------------------------

// Moves end by themselves, and a standstill makes them longer.
void Reload::hand_over_in_time() {
  hand_over_timer_ = loop_.after(moves_.is_moving() ? kHandOverWithMoves : kHandOver, [this] {
    moves_.is_moving() ? hand_over_in_time() : finish_handing_over();
  });
}

// Who hears that a reload is done may take it that the old code meets no new client.
void Reload::on_pool_changed() {
  if (stage_ != Stage::kHandingOver || !answer_) return;
  const auto pools = pools_.all();
  if (std::all_of(pools.begin(), pools.end(), [](const Pool* pool) { return pool->is_settled(); }))
    finish_handing_over();
}

void Reload::finish_handing_over() {
  if (const auto answer = take_answer()) answer("");
}

AddressMoves::Answer Reload::take_answer() {
  hand_over_timer_ = {};
  if (stage_ == Stage::kHandingOver) stage_ = Stage::kIdle;
  return std::exchange(answer_, nullptr);
}

void Reload::roll_back(std::string reason) {
  Attempt a = std::exchange(attempt_, {});
  stage_ = Stage::kIdle;
  next_timer_ = {};
  for (Pool* pool : pools_.all())
    if (pool->trial()) pool->abandon();
  pools_.turn_away();
  if (calls_.is_running()) calls_.go_on();
  end(std::move(a.on_done), reason, a.recycled);
}

// Tells everybody who asked.
void Reload::end(OnDone on_done, const std::string& refusal, const std::string& recycled) {
  std::string sentence;
  if (!refusal.empty() && recycled.empty()) {
    log_error("reload refused, nothing was changed: " + refusal, Event::kReloadRefused);
    sentence = "the last reload was refused, and nothing was changed: " + refusal;
  } else if (!refusal.empty()) {
    const std::string said = "not recycled, the old generation goes on: " + refusal;
    log({LogLevel::kError, recycled, 0, said, Event::kReloadRefused});
    sentence = "pool " + recycled + " was " + said;
  }
  service_.end_reload(sentence);
  calls_.show_status();
  if (on_done) on_done(refusal);
  if (!std::exchange(again_, false)) return;
  next_timer_ = loop_.after(0, [this] {
    if (calls_.is_running()) begin({}, {});
  });
}

// One that was only stopped is loading still.
bool Reload::child_changed(pid_t pid, int status) {
  const bool has_ended = WIFEXITED(status) || WIFSIGNALED(status);
  return attempt_.loading && has_ended && attempt_.loading->child_ended(pid, status);
}

bool Reload::needs(const Pool& leaving) const {
  return is_under_way() && std::any_of(attempt_.changes.begin(), attempt_.changes.end(),
                                       [&](const auto& change) { return change.pool == &leaving; });
}

void Reload::keep_inherited(std::vector<InheritedSocket> inherited) {
  inherited_ = std::move(inherited);
}

void Reload::record(DaemonRecord& record) const {
  record.file = file_;
  record.reloads = succeeded_;
  record.reloads_asked = asked_;
  for (const auto& socket : inherited_)
    if (socket.fd.is_open())
      record.unused.push_back({socket.fd.get(), socket.name, "", {}, true, 0, "", true, 0});
}

void Reload::resume(const DaemonRecord& record) {
  succeeded_ = record.reloads;
  asked_ = record.reloads_asked;
  for (const ListenerRecord& l : record.unused) inherited_.push_back({UniqueFd(l.fd), l.wanted});
}

}  // namespace preforkd
