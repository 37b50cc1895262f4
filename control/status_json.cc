#include "control/status_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "control/explain.h"
#include "shm/peer.h"

namespace preforkd {
namespace {

using Json = nlohmann::ordered_json;  // members in the order in which a person reads them

// Texts may hold what a hostile worker or a system call left in them; JSON may hold UTF-8 only.
std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

double age(Nanoseconds now, Nanoseconds then) {
  return then && now > then ? to_seconds(now - then) : 0.0;
}

Json utilization(const PoolView& pool) {
  Json json{{"now", pool.busy_now}};
  for (size_t i = 0; i < std::size(kWindows); ++i) json[kWindows[i].name] = pool.busy_over[i];
  return json;
}

Json service_time(const shm::Counters& figures) {
  auto times = service_times(figures);
  if (!times) return {{"p50", nullptr}, {"p90", nullptr}, {"p99", nullptr}, {"max", nullptr}};
  return {{"p50", times->p50}, {"p90", times->p90}, {"p99", times->p99}, {"max", times->max}};
}

Json rejected_by(const shm::Counters& figures) {
  Json reasons = Json::object();
  for (size_t i = 0; i < kRejections; ++i) reasons[kRejectionNames[i]] = figures.rejected[i];
  return reasons;
}

Json generations(const PoolInfo& info) {
  Json list = Json::array();
  for (const auto& g : info.generations) list.push_back({{"number", g.number}, {"over", g.over}});
  return list;
}

// Of the newest generation; null: its workers are not forked from one.
Json template_object(const Reading& reading) {
  constexpr const char* kStates[] = {nullptr, "none", "starting", "standing"};
  const auto view =
      reading.living.empty() ? shm::TemplateView{} : reading.living.back().template_view;
  const auto state = static_cast<uint32_t>(view.state);
  if (state == 0 || state >= std::size(kStates)) return nullptr;
  return {{"pid", view.pid ? Json(view.pid) : Json(nullptr)},
          {"state", kStates[state]},
          {"state_seconds", age(reading.at, view.since)}};
}

Json limits_object(const Limits& limits) {
  Json object = Json::object();
  for (const LimitRow& row : kLimitRows)
    object[row.name] =
        row.is_time() ? Json(to_seconds(limits.*row.time)) : Json(limits.*row.workers);
  return object;
}

void put_counters(Json& object, const shm::Counters& figures, shm::CounterGroup group) {
  for (const shm::CounterRow& row : shm::kCounterRows) {
    if (row.group != group) continue;
    const uint64_t sum = number_of(row, figures);
    object[row.name] = group == shm::CounterGroup::kTimes ? Json(to_seconds(sum)) : Json(sum);
  }
}

Json connections(const PoolView& pool) {
  const shm::Counters& f = pool.reading.figures;
  Json object{{"accepted", pool.accepted()}};
  put_counters(object, f, shm::CounterGroup::kConnections);
  object["rejected"] = std::accumulate(std::begin(f.rejected), std::end(f.rejected), uint64_t{0});
  object["rejected_by"] = rejected_by(f);
  object["active"] = pool.active;
  return object;
}

Json pool_object(const PoolView& pool) {
  const PoolInfo& info = pool.info;
  const shm::Counters& f = pool.reading.figures;
  Json object = {
      {"name", info.name},
      {"state", info.state},
      {"reason", info.reason},
      {"generation", info.generation},
      {"generations", generations(info)},
      {"listen", info.listen},
      {"workers",
       {{"total", pool.total},
        {"starting", pool.starting},
        {"idle", pool.idle},
        {"busy", pool.busy},
        {"retiring", pool.retiring}}},
      {"template", template_object(pool.reading)},
      {"limits", limits_object(info.limits)},
      {"capacity", info.capacity},
      {"backlog", {{"queued", pool.backlog.queued}, {"limit", pool.backlog.limit}}},
      {"connections", connections(pool)},
      {"utilization", utilization(pool)},
      {"peak_busy", pool.peak_busy},
  };
  put_counters(object, f, shm::CounterGroup::kTimes);
  put_counters(object["lifetime"], f, shm::CounterGroup::kWorkers);
  object["service_time_us"] = service_time(f);
  return object;
}

Json worker_object(const shm::WorkerView& worker, uint32_t generation, Nanoseconds now) {
  std::string peer = worker.active ? shm::peer_text(worker.peer) : "";
  std::string note = worker.active ? shm::note_text(worker.note) : "";
  return {
      {"slot", worker.slot},
      {"pid", worker.pid},
      {"generation", generation},
      {"state", worker_state_name(worker.state)},
      {"state_seconds", age(now, worker.since)},
      {"served", worker.served},
      {"failed", worker.failed},
      {"aborted", worker.aborted},
      {"busy_seconds", to_seconds(worker.busy_ns)},
      {"peer", peer.empty() ? Json(nullptr) : Json(peer)},
      {"note", note.empty() ? Json(nullptr) : Json(note)},
      {"age_seconds", age(now, worker.forked_at)},
  };
}

// What it was made from.
Json inputs_of(const shm::DecisionView& d) {
  Json inputs{{"idle", d.idle},
              {"busy", d.busy},
              {"starting", d.starting},
              {"queued", d.queued},
              {"peak", d.peak}};
  for (const LimitRow& row : kLimitRows)
    if (!row.is_time()) inputs[row.name] = d.limits.*row.workers;
  inputs["patience"] = d.patience;
  return inputs;
}

Json decision_object(const shm::DecisionView& d, const TwoClocks& now) {
  double seconds_ago = age(now.monotonic, d.at);
  return {
      {"number", d.number},
      {"at", now.epoch_seconds - seconds_ago},
      {"age_seconds", seconds_ago},
      {"action", action_name(d.action)},
      {"reason", reason_name(d.reason)},
      {"count", d.count},
      {"inputs", inputs_of(d)},
      {"text", explain(d)},
  };
}

}  // namespace

TwoClocks read_clocks() {
  timespec t{};
  clock_gettime(CLOCK_REALTIME, &t);
  return {monotonic_now(), static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9};
}

std::string status_json(const DaemonInfo& daemon, const std::vector<PoolView>& pools,
                        Nanoseconds now) {
  Json list = Json::array();
  for (const auto& pool : pools) list.push_back(pool_object(pool));
  return text_of({{"version", daemon.version},
                  {"pid", daemon.pid},
                  {"uptime_seconds", age(now, daemon.started)},
                  {"reloads", daemon.reloads},
                  {"stopping", daemon.stopping},
                  {"pools", std::move(list)}});
}

std::string pool_json(const PoolView& pool) { return text_of(pool_object(pool)); }

std::string workers_json(const Reading& reading) {
  Json list = Json::array();
  for (const auto& snapshot : reading.living)
    for (const auto& worker : snapshot.workers)
      list.push_back(worker_object(worker, snapshot.generation, reading.at));
  return text_of(list);
}

std::string decisions_json(std::vector<shm::DecisionView> decisions, const TwoClocks& now) {
  std::stable_sort(decisions.begin(), decisions.end(),
                   [](const auto& a, const auto& b) { return a.at < b.at; });
  Json list = Json::array();
  for (const auto& decision : decisions) list.push_back(decision_object(decision, now));
  return text_of(list);
}

std::string error_json(std::string_view text) { return text_of({{"error", text}}); }

std::string done_json(std::string_view text) { return text_of({{"ok", true}, {"message", text}}); }

}  // namespace preforkd
