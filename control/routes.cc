#include "control/routes.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "base/processor_time.h"
#include "control/dashboard.h"
#include "control/host.h"
#include "control/limits_patch.h"
#include "control/metrics.h"
#include "control/pool_view.h"
#include "control/status_json.h"

namespace preforkd {
namespace {

using Outcome = Routes::Outcome;

// What a route's function works with. `pool` is the one that the path names; null if it names none.
struct Context {
  Pools& pools;
  const HttpCall& call;
  PoolReader* pool;
};

HttpReply json_reply(std::string body) {
  HttpReply reply;
  reply.body = std::move(body);
  return reply;
}

Outcome get_status(const Context& c) {
  return json_reply(status_json(c.pools.daemon(), view_all(c.pools.shown()), monotonic_now()));
}

Outcome get_pool(const Context& c) { return json_reply(pool_json(view_of(*c.pool))); }

Outcome get_workers(const Context& c) {
  return json_reply(workers_json(c.pool->read(monotonic_now())));
}

Outcome get_decisions(const Context& c) {
  std::vector<shm::DecisionView> all;
  for (const auto& [generation, segment] : c.pool->segments()) {
    auto some = segment.reader.decisions();
    all.insert(all.end(), some.begin(), some.end());
  }
  return json_reply(decisions_json(std::move(all), read_clocks()));
}

Outcome get_metrics(const Context& c) {
  MetricsFormat format = metrics_format(c.call.accept);
  TwoClocks now = read_clocks();
  double started =
      now.epoch_seconds - (to_seconds(now.monotonic) - to_seconds(c.pools.daemon().started));
  HttpReply reply;
  reply.body = metrics_text(c.pools.daemon(), view_all(c.pools.shown()), started, format);
  reply.content_type = metrics_content_type(format);
  return reply;
}

Outcome get_dashboard(const Context&) {
  Dashboard page = make_dashboard();
  HttpReply reply;
  reply.body = std::move(page.html);
  reply.content_type = "text/html; charset=utf-8";
  reply.policy = std::move(page.policy);
  return reply;
}

Outcome ask(ControlAsk what, const Context& c) {
  Request request;
  request.ask = what;
  if (c.pool) {
    const std::string& name = c.pool->info()->name;
    name.copy(request.pool, kPoolNameMax);
  }
  return request;
}

template <ControlAsk what>
Outcome ask_plainly(const Context& c) {
  std::string complaint = refuse_body(c.call.body);
  if (!complaint.empty()) return error_reply(400, complaint);
  return ask(what, c);
}

Outcome patch_limits(const Context& c) {
  auto parsed = parse_limits_patch(c.call.body);
  if (auto* complaint = std::get_if<std::string>(&parsed)) return error_reply(400, *complaint);
  const auto& patch = std::get<LimitsPatch>(parsed);
  auto request = std::get<Request>(ask(ControlAsk::kLimits, c));
  request.set = patch.set;
  request.limits = patch.limits;
  request.for_ns = patch.for_ns;
  return request;
}

// A row for each thing that can be asked. "*" stands for the name of a pool. HEAD is GET without the
// body; the library leaves that out.
struct Route {
  const char* method;
  const char* pattern;
  Outcome (*respond)(const Context&);
  bool changes;  // for those who have the right, and not while stopping
};
constexpr Route kRoutes[] = {
    {"GET", "/", get_dashboard, false},
    {"GET", "/metrics", get_metrics, false},
    {"GET", "/v1/status", get_status, false},
    {"GET", "/v1/pools/*", get_pool, false},
    {"GET", "/v1/pools/*/workers", get_workers, false},
    {"GET", "/v1/pools/*/decisions", get_decisions, false},
    {"PATCH", "/v1/pools/*/limits", patch_limits, true},
    {"POST", "/v1/pools/*/recycle", ask_plainly<ControlAsk::kRecycle>, true},
    {"POST", "/v1/pools/*/drain", ask_plainly<ControlAsk::kDrain>, true},
    {"POST", "/v1/pools/*/resume", ask_plainly<ControlAsk::kResume>, true},
    {"POST", "/v1/reload", ask_plainly<ControlAsk::kReload>, true},
    {"POST", "/v1/upgrade", ask_plainly<ControlAsk::kUpgrade>, true},
    {"POST", "/v1/stop", ask_plainly<ControlAsk::kStop>, true},
};

// Whether the path is of the pattern, and the name that stands where the pattern has its "*".
bool matches(std::string_view pattern, std::string_view path, std::string_view& name) {
  size_t star = pattern.find('*');
  if (star == pattern.npos) return pattern == path;
  std::string_view before = pattern.substr(0, star), after = pattern.substr(star + 1);
  if (path.size() <= before.size() + after.size() || !path.starts_with(before) ||
      !path.ends_with(after))
    return false;
  name = path.substr(star, path.size() - before.size() - after.size());
  return name.find('/') == name.npos;
}

// An answer that took long to make is given again for ten times as long as that, 2 s at most: whoever asks for it
// without end costs control a tenth of its time. Figures of a thousand workers are then some hundredths old. Who may
// change something sees what he has changed: for him it is made anew.
constexpr Nanoseconds kDear = kMillisecond, kLongestShown = 2 * kSecond;
constexpr Nanoseconds kTimesShown = 10;
constexpr size_t kMostKept = 4;

HttpReply not_allowed(std::string allow) {
  HttpReply reply = error_reply(405, "this path takes " + allow);
  reply.allow = std::move(allow);
  return reply;
}

}  // namespace

HttpReply error_reply(unsigned status, std::string_view text) {
  HttpReply reply;
  reply.status = status;
  reply.body = error_json(text);
  return reply;
}

std::optional<HttpReply> Routes::refuse_host(const HttpCall& call) const {
  const HostVerdict verdict = call.host ? judge_host(*call.host, hosts_) : HostVerdict::kNonsense;
  if (verdict == HostVerdict::kOurs) return std::nullopt;
  if (verdict == HostVerdict::kNonsense)
    return error_reply(400,
                       "expected one Host header, with the address or the name that was asked");
  return error_reply(421, "'" + std::string(*call.host) +
                              "' is not known to be a name of this server: ask for its address, or "
                              "add the name to control.hosts in the configuration and reload");
}

Outcome Routes::look(const HttpCall& call, const std::function<Outcome()>& make) {
  const bool open = metrics_format(call.accept) == MetricsFormat::kOpenMetrics;
  const std::string key = std::string(call.path) + (open ? " open" : "");
  if (may_change(call.peer, pools_.daemon())) return make();
  const Nanoseconds now = monotonic_now();
  std::erase_if(kept_, [&](const auto& entry) { return entry.second.until <= now; });
  if (auto kept = kept_.find(key); kept != kept_.end()) return kept->second.reply;
  const Nanoseconds began = processor_time();
  Outcome outcome = make();
  const Nanoseconds cost = processor_time() - began;
  auto* reply = std::get_if<HttpReply>(&outcome);
  if (reply && cost >= kDear && kept_.size() < kMostKept)
    kept_[key] = {*reply, monotonic_now() + std::min(kTimesShown * cost, kLongestShown)};
  return outcome;
}

Outcome Routes::respond(const HttpCall& call) {
  if (read_only_)
    if (auto refusal = refuse_host(call)) return std::move(*refusal);
  std::string_view method = call.method == "HEAD" ? "GET" : call.method;
  if (read_only_ && method != "GET") return not_allowed("GET, HEAD");

  const Route* route = nullptr;
  std::string allow;
  std::string_view name;
  for (const Route& row : kRoutes) {
    std::string_view candidate;
    if ((read_only_ && row.changes) || !matches(row.pattern, call.path, candidate)) continue;
    if (row.method == method) {
      route = &row;
      name = candidate;
    }
    allow += (allow.empty() ? "" : ", ") + std::string(row.method);
    if (allow == "GET") allow += ", HEAD";
  }
  if (allow.empty()) return error_reply(404, "there is nothing at this path");
  if (!route) return not_allowed(std::move(allow));

  if (route->changes && !may_change(call.peer, pools_.daemon()))
    return error_reply(403, "changes are for root, the daemon's user and members of control.group");
  PoolReader* pool = name.empty() ? nullptr : pools_.find_shown(name);
  if (!name.empty() && !pool)
    return error_reply(404, "there is no pool '" + std::string(name) + "'");
  if (route->changes && pools_.daemon().stopping) return error_reply(503, "the daemon is stopping");
  const Context context{pools_, call, pool};
  if (route->changes || route->respond == get_dashboard) return route->respond(context);
  return look(call, [&] { return route->respond(context); });
}

HttpReply Routes::conclude(const Request& asked, const Answer& answer) {
  std::string_view text(answer.text, strnlen(answer.text, sizeof answer.text));
  if (answer.status != 200) {
    // The daemon's word, but HTTP's final codes only.
    bool sensible = answer.status > 200 && answer.status <= 599;
    return error_reply(sensible ? answer.status : 500, text);
  }
  if (asked.pool[0] == '\0') return json_reply(done_json(text));
  // The news of the pool came before this answer, so that it shows what was changed.
  PoolReader* pool = pools_.find_shown(asked.pool);
  if (!pool) return error_reply(404, "there is no pool '" + std::string(asked.pool) + "' any more");
  return json_reply(pool_json(view_of(*pool)));
}

}  // namespace preforkd
