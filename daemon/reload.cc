#include "daemon/reload.h"

#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "conf/print.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kHandOver = 2 * kSecond;
constexpr Nanoseconds kHandOverWithMoves = 10 * kSecond;  // more than they take (daemon/moves.h)
constexpr Nanoseconds kLoadGrace =
    10 * kSecond;  // beyond the loading's deadline, for what comes then

}  // namespace

LogLevel log_level_of(const Settings& settings) {
  LogLevel level = LogLevel::kInfo;
  log_level_from_name(settings.log_level, level);
  return level;
}

Reload::Reload(EventLoop& loop, const Paths& paths, std::string file, LoadedSettings& in_force,
               PoolSet& pools, ControlProcesses& control, LogLink& log, AddressMoves& moves,
               LostFiles& lost_files, ServiceStatus& service, Stop& stop,
               std::function<void()> show_status)
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
      stop_(stop),
      show_status_(std::move(show_status)) {}

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
  if (stop_.is_running()) stop_.go_on();
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
  show_status_();
  if (on_done) on_done(refusal);
  if (!std::exchange(again_, false)) return;
  again_timer_ = loop_.after(0, [this] {
    if (stop_.is_running()) begin({}, {});
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
