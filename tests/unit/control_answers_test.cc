// control/: what is asked and answered. The HTTP around it is tested with the real program, in
// tests/system.
#include "control/dashboard.h"
#include "control/explain.h"
#include "control/limits_patch.h"
#include "control/metrics.h"
#include "control/rights.h"
#include "control/routes.h"
#include "control/status_json.h"
#include "tests/unit/control_test.h"

using namespace preforkd;

void add_control_answers_tests();

namespace {

void explains_decisions() {
  auto d = [](Action action, Reason reason, uint32_t count) {
    shm::DecisionView v;
    v.action = action;
    v.reason = reason;
    v.count = count;
    v.idle = 3, v.busy = 2, v.queued = 13, v.peak = 2;
    v.limits = {4, 256, 2, 8}, v.patience = 1;
    return v;
  };
  expect_text(explain(d(Action::kGrow, Reason::kDemand, 12)),
              "grew by 12: 3 idle + 0 starting for 13 queued and 2 to spare");
  expect_text(explain(d(Action::kGrow, Reason::kBelowMin, 4)),
              "grew by 4: 5 workers of at least 4");
  expect_text(
      explain(d(Action::kHold, Reason::kAtMax, 0)),
      "could not grow: the pool is at its max of 256, with 3 idle + 0 starting for 13 queued "
      "and 2 to spare");
  auto surplus = d(Action::kShrink, Reason::kSurplus, 5);
  surplus.idle = 18;
  surplus.patience = 4;
  expect_text(
      explain(surplus),
      "let 5 retire: of 20 workers, at most 2 were busy at once for a while; with 8 to spare "
      "that asks for 10 (patience × 4)");
  surplus.peak = 0;
  surplus.patience = 1;
  expect_text(explain(surplus),
              "let 5 retire: of 20 workers, none was busy for a while, so 4 (min) are enough");
  surplus.limits.min_spare = 6;
  expect_text(
      explain(surplus),
      "let 5 retire: of 20 workers, none was busy for a while, so 6 (min_spare) are enough");
  expect_text(explain(d(static_cast<Action>(9), static_cast<Reason>(99), 1)), "invalid 1: invalid");
}

// --- what is asked and answered --------------------------------------------------------------------

void reads_patches() {
  auto good = parse_limits_patch(R"({"min":8,"max_spare":65536,"shrink_after":2.5,"for":600})");
  auto* patch = std::get_if<LimitsPatch>(&good);
  CU_ASSERT_FATAL(patch != nullptr);
  CU_ASSERT(patch->set ==
            (limit_bit(kLimitRows[0]) | limit_bit(kLimitRows[3]) | limit_bit(kLimitRows[4])));
  CU_ASSERT(patch->limits.min == 8 && patch->limits.max_spare == 65536);
  CU_ASSERT(patch->limits.shrink_after == from_seconds(2.5) && patch->for_ns == 600 * kSecond);

  const std::string whole = ": expected a whole number from 0 to 65536";
  const std::string max = "max: expected a whole number from 1 to 65536";
  const std::string time = ": expected a number of seconds from 0.01 to 315360000";
  const std::string later = "for: expected a number of seconds from 0.01 to 1000000000";
  const std::string none =
      "nothing to change: expected min, max, min_spare, max_spare or shrink_after";
  const struct {
    std::string body, complaint;
  } kRows[] = {
      {"", "the body is not JSON"},
      {"{\"min\":4", "the body is not JSON"},
      {"{\"min\":4}x", "the body is not JSON"},
      {"\xff", "the body is not JSON"},
      {std::string(60000, '['), "the body is not JSON"},
      {"[]", "the body is not a JSON object"},
      {"null", "the body is not a JSON object"},
      {"{}", none},
      {R"({"for":5})", none},
      {R"({"mni":4})",
       "\"mni\" is not a limit: expected min, max, min_spare, max_spare, shrink_after or for"},
      {R"({"min":"4"})", "min" + whole},
      {R"({"max":1.5})", max},
      {R"({"max":true})", max},
      {R"({"min_spare":-1})", "min_spare" + whole},
      {R"({"max":0})", max},
      {R"({"max":65537})", max},
      {R"({"min":65537})", "min" + whole},
      {R"({"max_spare":4294967296})", "max_spare" + whole},
      {R"({"min":null})", "min" + whole},
      {R"({"shrink_after":-0.1})", "shrink_after" + time},
      {R"({"shrink_after":0})", "shrink_after" + time},
      {R"({"shrink_after":0.009})", "shrink_after" + time},
      {R"({"shrink_after":315360001})", "shrink_after" + time},
      {R"({"shrink_after":1e300})", "shrink_after" + time},
      {R"({"shrink_after":1e999})", "the body is not JSON"},
      {R"({"shrink_after":[]})", "shrink_after" + time},
      {R"({"min":4,"for":0})", later},
      {R"({"min":4,"for":1e-12})", later},
      {R"({"min":4,"for":"1"})", later},
  };
  for (const auto& row : kRows) {
    auto parsed = parse_limits_patch(row.body);
    auto* complaint = std::get_if<std::string>(&parsed);
    expect_text(complaint ? *complaint : "(taken)", row.complaint);
  }
  expect_text(refuse_body(""), "");
  expect_text(refuse_body(" {} "), "");
  expect_text(refuse_body("{\"a\":1}"), "this request takes no body, or {}");
  expect_text(refuse_body("[]"), "this request takes no body, or {}");
  expect_text(refuse_body("{"), "the body is not JSON");
}

void knows_who_may() {
  DaemonInfo daemon;
  daemon.uid = 500;
  auto peer = [](uid_t uid, gid_t gid, std::vector<gid_t> groups = {}) {
    return Peer{true, uid, gid, std::move(groups)};
  };
  CU_ASSERT(may_change(peer(0, 0), daemon) && may_change(peer(500, 1), daemon));
  CU_ASSERT(!may_change(peer(501, 500), daemon) && !may_change(Peer{}, daemon));
  CU_ASSERT(!may_change(peer(501, gid_t(-1)), daemon));  // no group is nobody's
  daemon.control_gid = 42;
  CU_ASSERT(may_change(peer(501, 42), daemon) && may_change(peer(501, 1, {7, 42}), daemon));
  CU_ASSERT(!may_change(peer(501, 1, {7, 43}), daemon));
}

const Peer kRoot{true, 0, 0, {}}, kStranger{true, 1234, 1234, {}};

void routes_requests() {
  Pools pools;
  FakeSegment segment(1);
  learn(pools, ControlNews::kDaemon, daemon_news());
  learn(pools, ControlNews::kPool, pool_news(kFirst));
  learn_segment(pools, segment, 1);
  Routes routes(pools), web(pools, std::vector<std::string>{});

  const struct {
    const char *method, *path;
    const Peer& peer;
    const char* body;
    unsigned status, web_status;  // 0: asks the daemon
    const char* allow;
  } kRows[] = {
      {"GET", "/v1/status", kStranger, "", 200, 200, ""},
      {"HEAD", "/v1/pools/echo", kStranger, "", 200, 200, ""},
      {"GET", "/v1/pools/echo/workers", kStranger, "", 200, 200, ""},
      {"GET", "/v1/pools/echo/decisions", kStranger, "", 200, 200, ""},
      {"GET", "/metrics", kStranger, "", 200, 200, ""},
      {"GET", "/", kStranger, "", 200, 200, ""},
      {"GET", "/v1/pools/none", kRoot, "", 404, 404, ""},
      {"GET", "/v1/pools/", kRoot, "", 404, 404, ""},
      {"GET", "/v1/pools/a/b/workers", kRoot, "", 404, 404, ""},
      {"GET", "/v1/status/", kRoot, "", 404, 404, ""},
      {"GET", "", kRoot, "", 404, 404, ""},
      {"GET", "/v1/stop", kRoot, "", 405, 404, "POST"},
      {"POST", "/v1/status", kRoot, "", 405, 405, "GET, HEAD"},
      {"DELETE", "/v1/pools/echo/limits", kRoot, "", 405, 405, "PATCH"},
      {"PATCH", "/v1/pools/echo/limits", kRoot, "{\"min\":1}", 0, 405, ""},
      {"PATCH", "/v1/pools/echo/limits", kRoot, "{", 400, 405, ""},
      {"PATCH", "/v1/pools/echo/limits", kStranger, "{", 403, 405, ""},
      {"PATCH", "/v1/pools/none/limits", kRoot, "{\"min\":1}", 404, 405, ""},
      {"POST", "/v1/pools/echo/recycle", kRoot, "", 0, 405, ""},
      {"POST", "/v1/pools/echo/drain", kRoot, "{}", 0, 405, ""},
      {"POST", "/v1/pools/echo/resume", kRoot, "[]", 400, 405, ""},
      {"POST", "/v1/reload", kRoot, "", 0, 405, ""},
      {"POST", "/v1/stop", kStranger, "", 403, 405, ""},
  };
  for (const auto& row : kRows) {
    for (bool over_web : {false, true}) {
      HttpCall call{row.method, row.path, "", row.body, row.peer, "127.0.0.1:9707"};
      auto outcome = (over_web ? web : routes).respond(call);
      auto* reply = std::get_if<HttpReply>(&outcome);
      unsigned wanted = over_web ? row.web_status : row.status, got = reply ? reply->status : 0;
      if (got != wanted) std::printf("\n  %s %s: %u, not %u\n", row.method, row.path, got, wanted);
      CU_ASSERT(got == wanted);
      if (got == 405) expect_text(reply->allow, over_web ? "GET, HEAD" : row.allow);
      if (got >= 400) CU_ASSERT(json::parse(reply->body)["error"].is_string());
    }
  }
  learn(pools, ControlNews::kDaemon, daemon_news(true));
  auto outcome = routes.respond({"POST", "/v1/reload", "", "", kRoot, {}});
  CU_ASSERT(std::get<HttpReply>(outcome).status == 503);
}

void concludes_requests() {
  Pools pools;
  learn(pools, ControlNews::kDaemon, daemon_news());
  learn(pools, ControlNews::kPool, pool_news(kFirst));
  Routes routes(pools);
  auto outcome =
      routes.respond({"PATCH", "/v1/pools/echo/limits", "", R"({"max":9,"for":2})", kRoot});
  const auto& request = std::get<Request>(outcome);
  CU_ASSERT(request.ask == ControlAsk::kLimits && request.set == limit_bit(kLimitRows[1]));
  CU_ASSERT(request.limits.max == 9 && request.for_ns == 2 * kSecond);
  expect_text(request.pool, "echo");

  Answer answer;
  answer.status = 409;
  std::strcpy(answer.text, "min 10 is above max 9");
  HttpReply reply = routes.conclude(request, answer);
  CU_ASSERT(reply.status == 409);
  expect_text(reply.body, "{\"error\":\"min 10 is above max 9\"}\n");
  answer.status = 200;
  expect_part(routes.conclude(request, answer).body, R"({"name":"echo","state":"running")");
  std::strcpy(answer.text, "done");
  expect_text(routes.conclude(Request{}, answer).body, "{\"ok\":true,\"message\":\"done\"}\n");
  std::memset(answer.text, 'x', sizeof answer.text);  // without its end
  answer.status = 7;
  CU_ASSERT(routes.conclude(Request{}, answer).status == 500);
}

void writes_status() {
  Pools pools;
  FakeSegment segment(1);
  segment.worker(0, WorkerState::kBusy, 2, true);
  segment.slot(0).peer[0] = AF_UNIX;
  segment.slot(0).peer[1] = 9;
  segment.worker(1, WorkerState::kIdle, 0, false);
  learn(pools, ControlNews::kDaemon, daemon_news());
  learn(pools, ControlNews::kPool, pool_news(kFirst));
  learn_segment(pools, segment, 1);
  PoolReader* pool = pools.find_shown("echo");
  CU_ASSERT_FATAL(pool != nullptr);
  json status = json::parse(status_json(pools.daemon(), view_all(pools.shown()), 2 * kSecond + 1));
  CU_ASSERT(status["uptime_seconds"] == 2.0 && status["reloads"] == 3 && status["pid"] == 7);
  json p = status["pools"][0];
  CU_ASSERT(p["connections"]["accepted"] == 3 && p["connections"]["active"] == 1);
  CU_ASSERT(p["utilization"]["now"] == 0.5 && p["backlog"]["limit"] == 4096);
  CU_ASSERT(p["service_time_us"]["p50"] == 100 && p["limits"]["shrink_after"] == 2.5);
  json workers = json::parse(workers_json(pool->read(monotonic_now())));
  CU_ASSERT_FATAL(workers.size() == 2);
  CU_ASSERT(workers[0]["peer"] == "unix:pid=9,uid=0" && workers[0]["state"] == "busy");
  CU_ASSERT(workers[1]["peer"].is_null() && workers[1]["slot"] == 1 && workers[1]["pid"] == 101);

  shm::DecisionView older, newer;
  older.at = 8 * kSecond, newer.at = 9 * kSecond;
  older.number = 2, newer.number = 1;  // of two generations: by time, not by number
  json decisions = json::parse(decisions_json({newer, older}, {10 * kSecond, 1000.0}));
  CU_ASSERT(decisions[0]["number"] == 2 && decisions[0]["at"] == 998.0);
  CU_ASSERT(decisions[1]["age_seconds"] == 1.0);
  expect_text(error_json("a\"\xff"), "{\"error\":\"a\\\"\xef\xbf\xbd\"}\n");
}

void writes_metrics() {
  PoolView view;
  view.info.name = "a\"b\\c\nd";
  view.info.state = "degraded";
  view.active = 1;
  auto& f = view.reading.figures;
  f.served = 3;
  f.aborted = 2;
  f.histogram[histogram_bucket(15)] = 1;   // below 16 µs
  f.histogram[histogram_bucket(16)] = 1;   // not below
  f.histogram[kHistogramBuckets - 1] = 1;  // above every bound that is shown
  view.reading.finished_ns = 2'500'000'000;
  DaemonInfo daemon;
  daemon.version = "0.1.0";
  std::string old = metrics_text(daemon, {view}, 100.5, MetricsFormat::kPrometheus);
  std::string open = metrics_text(daemon, {view}, 100.5, MetricsFormat::kOpenMetrics);
  const std::string label = R"(pool="a\"b\\c\nd")";
  const std::string name = "preforkd_service_time_seconds";
  for (const auto& text : {old, open}) {
    expect_part(text, "preforkd_connections_accepted_total{" + label + "} 6\n");
    expect_part(text, "preforkd_connections_aborted_total{" + label + "} 2\n");
    expect_part(text, name + "_bucket{" + label + ",le=\"1.6e-05\"} 1\n");
    expect_part(text, name + "_bucket{" + label + ",le=\"3.2e-05\"} 2\n");
    expect_part(text, name + "_bucket{" + label + ",le=\"+Inf\"} 3\n");
    expect_part(text, name + "_sum{" + label + "} 2.5\n" + name + "_count{" + label + "} 3\n");
    expect_part(text, "preforkd_pool_state{" + label + ",state=\"degraded\"} 1\n");
    expect_part(text, "preforkd_pool_state{" + label + ",state=\"running\"} 0\n");
    expect_part(text, "preforkd_start_time_seconds 100.5\n");
    expect_part(text, "preforkd_build_info{version=\"0.1.0\"} 1\n");
  }
  expect_part(old, "# TYPE preforkd_connections_accepted_total counter\n");
  expect_part(open, "# TYPE preforkd_connections_accepted counter\n");
  expect_part(open, "# TYPE preforkd_build info\n");
  CU_ASSERT(open.ends_with("\n# EOF\n") && old.find("# EOF") == old.npos);
  CU_ASSERT(old.find("# UNIT") == old.npos);
  CU_ASSERT(metrics_format("text/plain, */*") == MetricsFormat::kPrometheus);
  CU_ASSERT(metrics_format("application/openmetrics-text;version=1.0.0,text/plain;q=0.5") ==
            MetricsFormat::kOpenMetrics);
}

void guards_the_page() {
  Dashboard one = make_dashboard(), other = make_dashboard();
  CU_ASSERT(one.policy != other.policy);
  size_t at = one.policy.find("'nonce-") + std::strlen("'nonce-");
  std::string nonce = one.policy.substr(at, one.policy.find('\'', at) - at);
  CU_ASSERT(nonce.size() == 32);
  expect_part(one.html, "<script nonce=\"" + nonce + "\">");
  expect_part(one.html, "<style nonce=\"" + nonce + "\">");
  CU_ASSERT(one.html.find("NONCE") == std::string::npos);
  CU_ASSERT(one.html.find("http") == std::string::npos);  // it loads nothing from anywhere
}

}  // namespace

void add_control_answers_tests() {
  static constexpr struct {
    const char* name;
    void (*run)();
  } kTests[] = {
      {"decisions are explained", explains_decisions},
      {"patches of limits", reads_patches},
      {"who may change things", knows_who_may},
      {"requests find their route", routes_requests},
      {"the daemon's answers become replies", concludes_requests},
      {"status, workers and decisions", writes_status},
      {"metrics", writes_metrics},
      {"the page runs nothing but its own", guards_the_page},
  };
  CU_pSuite suite = CU_add_suite("control answers", nullptr, nullptr);
  for (const auto& test : kTests) CU_add_test(suite, test.name, test.run);
}
