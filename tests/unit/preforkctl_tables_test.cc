// preforkctl: what a person reads, whatever the daemon wrote.
#include <stdlib.h>
#include <time.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ctl/format.h"
#include "ctl/tables.h"
#include "tests/unit/preforkctl_test.h"

void add_preforkctl_tables_tests();

namespace preforkd {
namespace {

// --- values -------------------------------------------------------------------------------------

void test_printable() {
  expect_text(printable("plain ü µ – 😀"), "plain ü µ – 😀");
  expect_text(printable("\x1b[2J\x07\n\t\x7f"), "\\x1b[2J\\x07\\x0a\\x09\\x7f");
  expect_text(printable("\u009b31m\u202eabc"), "\\u{9b}31m\\u{202e}abc");
  // Not UTF-8: a lone lead, a lone continuation, an overlong NUL, a surrogate, beyond U+10FFFF.
  expect_text(printable("a\xc3"), "a\\xc3");
  expect_text(printable("\x80z"), "\\x80z");
  expect_text(printable("\xc0\x80"), "\\xc0\\x80");
  expect_text(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  expect_text(printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
  expect_text(printable(std::string("\0", 1)), "\\x00");
  expect_text(printable_lines("a\n\tb\r\x1b"), "a\n\tb\\x0d\\x1b");
  CU_ASSERT_EQUAL(columns_of("4–256 µs"), 8);
}

void test_durations() {
  struct Case {
    double seconds;
    const char* text;
  };
  constexpr Case kCases[] = {
      {0, "0 s"},          {80e-6, "80 µs"},
      {1.5e-6, "1.5 µs"},  {999.6e-6, "1 ms"},
      {1.24e-3, "1.2 ms"}, {0.4, "400 ms"},
      {0.9996, "1 s"},     {12.3, "12.3 s"},
      {59.94, "59.9 s"},   {59.96, "1m"},
      {245, "4m 5s"},      {600, "10m"},
      {3599.7, "1h"},      {3 * 3600 + 250, "3h 4m"},
      {86400, "1d"},       {273612.3, "3d 4h"},
      {-1, "-"},           {1e300, "-"},
      {HUGE_VAL, "-"},     {NAN, "-"},
  };
  for (const Case& c : kCases) expect_text(duration(c.seconds), c.text);
  expect_text(percent(0), "0%");
  expect_text(percent(0.004), "0.4%");
  expect_text(percent(0.0999), "10%");
  expect_text(percent(0.333), "33%");
  expect_text(percent(1), "100%");
  expect_text(percent(-0.1), "-");
  expect_text(local_time(1e300), "-");
  expect_text(local_time(-5), "-");
}

void test_suggestions() {
  CU_ASSERT_EQUAL(edit_distance("", "abc"), 3);
  CU_ASSERT_EQUAL(edit_distance("mim", "min"), 1);
  CU_ASSERT_EQUAL(edit_distance("kitten", "sitting"), 3);
  std::vector<std::string_view> names = {"min", "max", "min_spare"};
  expect_text(did_you_mean("mim", names), ", did you mean 'min'?");
  expect_text(did_you_mean("min_spar", names), ", did you mean 'min_spare'?");
  expect_text(did_you_mean("xyz", names), "");
  expect_text(did_you_mean("", names), "");
}

// --- tables -------------------------------------------------------------------------------------

void test_status_table() {
  expect_text(
      status_table(Json::parse(status_of(kPool))),
      "preforkd 0.1.0, pid 4242, up 12.3 s, reloads 0\n"
      "\n"
      "NAME  STATE    WORKERS  IDLE  BUSY  LIMITS  QUEUED  SERVED  FAILED  ABORTED  UTIL  P99  "
      "LISTEN\n"
      "echo  running        6     4     2   4–256       0     117       0        1   10%    -  "
      "127.0.0.1:7007, [::1]:7007\n");
  expect_text(status_table(Json::parse(status_of(""))),
              "preforkd 0.1.0, pid 4242, up 12.3 s, reloads 0\nno pools\n");
}

void test_pool_details() {
  Json pool = Json::parse(kPool);
  std::string text = pool_details(pool);
  for (const char* part : {
           "echo\n  state         running\n",
           "workers       6: 0 starting, 4 idle, 2 busy, 0 retiring\n",
           "queued        0 of at most 4096\n",
           "connections   120 accepted: 117 served, 0 failed, 1 aborted, 2 active; 0 rejected\n",
           "utilization   33% now, 20% in 1 s, 10% in 10 s, 5% in 60 s\n",
           "lifetime      9 forked, 3 retired, 0 crashed, 0 timed out, 0 recycled\n",
           "service time  p50 80 µs, p90 120 µs, p99 -, max 900 µs\n",
       })
    CU_ASSERT_TRUE(contains(text, part));
  expect_text(pool_limits(pool),
              "echo: min 4, max 256, min_spare 2, max_spare 8, shrink_after 2.5 s");
}

// The reason is told while it is one, and only then.
void test_degraded() {
  Json pool = {{"name", "echo"}, {"state", "degraded"}, {"reason", "signal 11 \x1b[31m"}};
  std::string line = "echo is degraded: signal 11 \\x1b[31m\n";
  CU_ASSERT_TRUE(status_table(Json::parse(status_of(pool.dump()))).ends_with("\n\n" + line));
  CU_ASSERT_TRUE(pool_details(pool).ends_with(line));
  pool["state"] = "running";
  expect_text(pool_trouble(pool), "");
  pool["state"] = "degraded";
  pool["reason"] = 5;
  expect_text(pool_trouble(pool), "");
}

void test_workers_table() {
  const char* list = R"([
    {"slot":0,"pid":99,"generation":1,"state":"idle","state_seconds":3.5,"served":20,"failed":0,"aborted":0,
     "busy_seconds":0.0032,"age_seconds":4000,"peer":null,"later":{"a":[1]}},
    {"slot":10,"pid":123456,"generation":1,"state":"retiring","state_seconds":0.00008,"served":2000,
     "failed":1,"aborted":3,"busy_seconds":61,"age_seconds":273600,"peer":"[::1]:4711","note":"GET /x"}])";
  const char* table =
      "SLOT     PID  GEN  STATE       FOR  SERVED  FAILED  ABORTED    BUSY    AGE  PEER        "
      "NOTE\n"
      "   0      99    1  idle      3.5 s      20       0        0  3.2 ms  1h 6m  -           -\n"
      "  10  123456    1  retiring  80 µs    2000       1        3   1m 1s  3d 4h  [::1]:4711  GET "
      "/x\n";
  expect_text(workers_table(Json::parse(list)), table);
  expect_text(workers_table(Json{{"pool", "echo"}, {"workers", Json::parse(list)}}), table);
  expect_text(workers_table(Json::array()), "no workers\n");
}

void test_decisions_table() {
  setenv("TZ", "UTC", 1);
  tzset();
  // Two generations, each with its own numbers; two decisions of one moment; one without its time.
  Json newest_first = Json::parse(R"({"pool":"echo","decisions":[
    {"number":1,"at":1767225600.5,"action":"shrink","reason":"surplus","count":2,"text":"too\nmany"},
    {"number":8,"at":1767225500.5,"action":"hold","reason":"at_max","count":0},
    {"number":7,"at":1767225500.5,"action":"grow","reason":"demand","count":12,"text":"queued 9"},
    {"number":9,"action":"grow"}]})");
  expect_text(decisions_table(newest_first),
              "TIME                 ACTION  COUNT  WHY\n"
              "-                    grow        -  -\n"
              "2025-12-31 23:58:20  grow       12  queued 9\n"
              "2025-12-31 23:58:20  hold        0  at_max\n"
              "2026-01-01 00:00:00  shrink      2  too\\x0amany\n");
  expect_text(decisions_table(Json::array()), "no decisions yet\n");
}

// A document that is not what it should be gives dashes or a reason, never a crash.
void test_unexpected_documents() {
  const char* kDocuments[] = {"null",
                              "42",
                              "\"x\"",
                              "{}",
                              "[]",
                              "[null,7,\"x\",[],{}]",
                              R"({"pools":{},"workers":7,"decisions":null})",
                              R"({"name":{},"workers":[1,[2]],"limits":5,"listen":[[],{},null]})",
                              R"({"pools":[{"workers":{"idle":"many"},"service_time_us":[]}]})"};
  using Show = std::string (*)(const Json&);
  for (const char* text : kDocuments) {
    Json document = Json::parse(text);
    for (Show show : {Show{status_table}, Show{pool_details}, Show{pool_limits},
                      Show{workers_table}, Show{decisions_table}, Show{pool_trouble}}) {
      try {
        show(document);
      } catch (const std::runtime_error& e) {
        CU_ASSERT_TRUE(contains(e.what(), "read the daemon's answer: "));
      }
    }
  }
  expect_text(error_of<std::runtime_error>([] {
                workers_table(Json{{"workers", 7}});
              }),
              "read the daemon's answer: it has no list of workers");
  CU_ASSERT_TRUE(contains(pool_details(Json::object()), "limits        -\n"));
}

}  // namespace
}  // namespace preforkd

void add_preforkctl_tables_tests() {
  using namespace preforkd;
  CU_pSuite suite = CU_add_suite("preforkctl_tables", nullptr, nullptr);
  struct Row {
    const char* name;
    CU_TestFunc test;
  };
  constexpr Row kTests[] = {
      {"texts cannot steer a terminal", test_printable},
      {"durations, ratios and times are readable", test_durations},
      {"suggestions are near", test_suggestions},
      {"the table of pools", test_status_table},
      {"one pool in full", test_pool_details},
      {"a degraded pool says why", test_degraded},
      {"the table of workers", test_workers_table},
      {"the table of decisions", test_decisions_table},
      {"unexpected documents give dashes or a reason", test_unexpected_documents},
  };
  for (const Row& row : kTests) CU_add_test(suite, row.name, row.test);
}
