#include "ctl/tables.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "ctl/format.h"

namespace preforkd {
namespace {

// Every line and every cell is a pattern: text with fields "{KIND:PATH}" or "{KIND:PATH|OTHER}" in
// it. A path names a member of a member, "workers/idle"; the other path is taken when the first
// gives nothing. A pattern all of whose fields are missing is "-".
enum Kind : char {
  kText = 't',     // a string, a number as it is, or a list of them
  kSeconds = 's',  // a number of seconds
  kMicros = 'u',   // a number of microseconds
  kRatio = '%',    // 0.33 is 33%
  kEpoch = '@',    // seconds since 1970
};
constexpr char kMissing[] = "-";

struct Column {
  const char* header;
  bool right;  // numbers stand on the right
  const char* cell;
};

constexpr Column kPoolColumns[] = {
    {"NAME", false, "{t:name}"},
    {"STATE", false, "{t:state}"},
    {"WORKERS", true, "{t:workers/total}"},
    {"IDLE", true, "{t:workers/idle}"},
    {"BUSY", true, "{t:workers/busy}"},
    {"LIMITS", true, "{t:limits/min}–{t:limits/max}"},
    {"QUEUED", true, "{t:backlog/queued}"},
    {"SERVED", true, "{t:connections/served}"},
    {"FAILED", true, "{t:connections/failed}"},
    {"ABORTED", true, "{t:connections/aborted}"},
    {"UTIL", true, "{%:utilization/10s}"},
    {"P99", true, "{u:service_time_us/p99}"},
    {"LISTEN", false, "{t:listen}"},  // last: it may be long, and then only it leaves the screen
};

constexpr Column kWorkerColumns[] = {
    {"SLOT", true, "{t:slot}"},         {"PID", true, "{t:pid}"},
    {"GEN", true, "{t:generation}"},    {"STATE", false, "{t:state}"},
    {"FOR", true, "{s:state_seconds}"}, {"SERVED", true, "{t:served}"},
    {"FAILED", true, "{t:failed}"},     {"ABORTED", true, "{t:aborted}"},
    {"BUSY", true, "{s:busy_seconds}"}, {"AGE", true, "{s:age_seconds}"},
    {"PEER", false, "{t:peer}"},        {"NOTE", false, "{t:note}"},  // last: it may be long
};

constexpr Column kDecisionColumns[] = {
    {"TIME", false, "{@:at}"},
    {"ACTION", false, "{t:action}"},
    {"COUNT", true, "{t:count}"},
    {"WHY", false, "{t:text|reason}"},
};

struct Line {
  const char* label;
  const char* pattern;
};

constexpr Line kPoolLines[] = {
    {"state", "{t:state}"},
    {"generation", "{t:generation}"},
    {"listen", "{t:listen}"},
    {"workers",
     "{t:workers/total}: {t:workers/starting} starting, {t:workers/idle} idle, "
     "{t:workers/busy} busy, {t:workers/retiring} retiring"},
    {"limits", nullptr},  // limits_pattern()
    {"queued", "{t:backlog/queued} of at most {t:backlog/limit}"},
    {"connections",
     "{t:connections/accepted} accepted: {t:connections/served} served, "
     "{t:connections/failed} failed, {t:connections/aborted} aborted, "
     "{t:connections/active} active; "
     "{t:connections/rejected} rejected"},
    {"utilization",
     "{%:utilization/now} now, {%:utilization/1s} in 1 s, {%:utilization/10s} in 10 s, "
     "{%:utilization/60s} in 60 s"},
    {"peak busy", "{t:peak_busy}"},
    {"time at max", "{s:seconds_at_max}"},
    {"lifetime",
     "{t:lifetime/forked} forked, {t:lifetime/retired} retired, {t:lifetime/crashed} crashed, "
     "{t:lifetime/timed_out} timed out, {t:lifetime/recycled} recycled"},
    {"service time",
     "p50 {u:service_time_us/p50}, p90 {u:service_time_us/p90}, p99 {u:service_time_us/p99}, "
     "max {u:service_time_us/max}"},
};
constexpr size_t kLabelWidth = 14;

// "min {t:limits/min}, ..., shrink_after {s:limits/shrink_after}"
std::string limits_pattern() {
  std::string pattern;
  for (const LimitRow& row : kLimitRows)
    pattern += (pattern.empty() ? "" : ", ") + std::string(row.name) +
               (row.is_time() ? " {s:limits/" : " {t:limits/") + row.name + "}";
  return pattern;
}

// The member that a path leads to; null if there is none.
const Json* find_member(const Json& object, std::string_view path) {
  const Json* at = &object;
  while (!path.empty()) {
    std::string_view name = path.substr(0, path.find('/'));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    if (!at->is_object()) return nullptr;
    auto member = at->find(std::string(name));
    if (member == at->end()) return nullptr;
    at = &*member;
  }
  return at;
}

std::string text_of(const Json& value) {
  if (value.is_string()) return printable(value.get_ref<const std::string&>());
  if (value.is_number() || value.is_boolean()) return value.dump();
  std::string list;
  if (value.is_array())
    for (const Json& element : value)
      if (element.is_primitive() && !element.is_null())
        list += (list.empty() ? "" : ", ") + text_of(element);
  return list;
}

// The field as text; "" if it is missing or not of its kind.
std::string field(const Json& object, char kind, std::string_view path) {
  const Json* value = find_member(object, path);
  if (!value) return "";
  if (kind == kText) return text_of(*value);
  if (!value->is_number()) return "";
  auto number = value->get<double>();
  switch (kind) {
    case kSeconds:
      return duration(number);
    case kMicros:
      return duration(number / 1e6);
    case kRatio:
      return percent(number);
    case kEpoch:
      return local_time(number);
    default:
      return "";
  }
}

std::string fill(std::string_view pattern, const Json& object) {
  std::string out;
  bool found = false;
  while (true) {
    size_t open = pattern.find('{');
    out += pattern.substr(0, open);
    if (open == pattern.npos) break;
    size_t close = pattern.find('}', open);
    char kind = pattern[open + 1];
    std::string_view paths = pattern.substr(open + 3, close - open - 3);
    size_t bar = paths.find('|');
    std::string value = field(object, kind, paths.substr(0, bar));
    if (value.empty() && bar != paths.npos) value = field(object, kind, paths.substr(bar + 1));
    found = found || !value.empty();
    out += value.empty() ? kMissing : value;
    pattern.remove_prefix(close + 1);
  }
  return found ? out : kMissing;
}

std::string table(std::span<const Column> columns, const std::vector<const Json*>& objects) {
  std::vector<std::vector<std::string>> rows(1);
  for (const Column& column : columns) rows[0].push_back(column.header);
  for (const Json* object : objects) {
    rows.emplace_back();
    for (const Column& column : columns) rows.back().push_back(fill(column.cell, *object));
  }

  // No cell is worth more than this to all the others: a longer one sticks out of its own row.
  constexpr size_t kWidest = 64;
  std::vector<size_t> widths(columns.size(), 0);
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], std::min(columns_of(row[i]), kWidest));

  std::string out;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      bool last = i + 1 == row.size();
      size_t width = columns_of(row[i]);
      std::string padding(width < widths[i] ? widths[i] - width : 0, ' ');
      if (columns[i].right) out += padding;
      out += row[i];
      if (!columns[i].right && !last) out += padding;
      out += last ? "\n" : "  ";
    }
  }
  return out;
}

// The list in a document, which is the document itself or its member of that name.
std::vector<const Json*> list_in(const Json& document, const char* name) {
  const Json* list = document.is_array() ? &document : find_member(document, name);
  if (!list || !list->is_array())
    throw std::runtime_error(std::string("read the daemon's answer: it has no list of ") + name);
  std::vector<const Json*> elements;
  for (const Json& element : *list) elements.push_back(&element);
  return elements;
}

void expect_object(const Json& document, const char* what) {
  if (!document.is_object())
    throw std::runtime_error(std::string("read the daemon's answer: it is not ") + what);
}

// By time first: each generation of a pool numbers its decisions from 1.
std::pair<double, double> order_of(const Json& decision) {
  auto number = [&](const char* name) {
    const Json* value = find_member(decision, name);
    return value && value->is_number() ? value->get<double>() : 0;
  };
  return {number("at"), number("number")};
}

}  // namespace

std::string daemon_line(const Json& status) {
  expect_object(status, "a status");
  constexpr char kLine[] =
      "preforkd {t:version}, pid {t:pid}, up {s:uptime_seconds}, reloads {t:reloads}";
  return fill(kLine, status) + '\n';
}

std::string status_table(const Json& status) {
  std::string out = daemon_line(status);
  auto pools = list_in(status, "pools");
  if (pools.empty()) return out + "no pools\n";
  out += '\n' + table(kPoolColumns, pools);
  std::string troubles;
  for (const Json* pool : pools) troubles += pool_trouble(*pool);
  return troubles.empty() ? out : out + '\n' + troubles;
}

std::string pool_details(const Json& pool) {
  expect_object(pool, "a pool");
  std::string out = fill("{t:name}", pool) + '\n';
  for (const Line& line : kPoolLines) {
    std::string label = line.label;
    label.resize(kLabelWidth, ' ');
    out += "  " + label + fill(line.pattern ? line.pattern : limits_pattern(), pool) + '\n';
  }
  return out + pool_trouble(pool);
}

std::string pool_limits(const Json& pool) {
  expect_object(pool, "a pool");
  return fill("{t:name}", pool) + ": " + fill(limits_pattern(), pool);
}

std::string pool_trouble(const Json& pool) {
  if (member_text(pool, "state") != "degraded" || member_text(pool, "reason").empty()) return "";
  return fill("{t:name} is degraded: {t:reason}", pool) + '\n';
}

std::string workers_table(const Json& workers) {
  auto list = list_in(workers, "workers");
  return list.empty() ? "no workers\n" : table(kWorkerColumns, list);
}

std::string decisions_table(const Json& decisions) {
  auto list = list_in(decisions, "decisions");
  std::stable_sort(list.begin(), list.end(),
                   [](const Json* a, const Json* b) { return order_of(*a) < order_of(*b); });
  return list.empty() ? "no decisions yet\n" : table(kDecisionColumns, list);
}

std::string member_text(const Json& object, const char* name) {
  const Json* value = find_member(object, name);
  return value && value->is_string() ? value->get<std::string>() : "";
}

}  // namespace preforkd
