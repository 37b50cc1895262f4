#include "ctl/commands.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/limits.h"
#include "base/version.h"
#include "ctl/format.h"

namespace preforkd {
namespace {

constexpr size_t kAnyNumber = SIZE_MAX;

// --- what the daemon says ---------------------------------------------------------------------

Json parse_answer(const std::string& answer) {
  // Deeper than any answer, and far from deep enough to exhaust the stack when it is printed.
  constexpr int kDeepest = 64;
  auto check_depth = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kDeepest)
      throw std::runtime_error("read the daemon's answer: it is nested too deeply");
    return true;
  };
  try {
    return Json::parse(answer, check_depth);
  } catch (const Json::exception&) {
    // The parser's own message quotes the answer, which may be anything.
    throw std::runtime_error("read the daemon's answer: it is not JSON");
  }
}

std::string with_newline(std::string text) {
  if (!text.ends_with('\n')) text += '\n';
  return text;
}

// As a program wants it: plain ASCII, so that nothing in it can steer a terminal.
std::string pretty(const Json& document) {
  return document.dump(2, ' ', /*ensure_ascii=*/true) + '\n';
}

using Show = std::string (*)(const Json& document);

std::string show(const Arguments& arguments, const std::string& answer, Show as_table) {
  Json document = parse_answer(answer);
  return arguments.json ? pretty(document) : as_table(document);
}

// Tells the daemon to do something; `done` is what to say where it does not say it itself.
std::string tell(const Arguments& arguments, const Client& client, const std::string& path,
                 const std::string& done) {
  Json document = parse_answer(client.post(path));
  if (arguments.json) return pretty(document);
  std::string message = member_text(document, "message");
  return with_newline(printable_lines(message.empty() ? done : message));
}

// --- the commands -----------------------------------------------------------------------------

std::string run_status(const Arguments& arguments, const Client& client) {
  if (arguments.words.empty()) return show(arguments, client.get("/v1/status"), status_table);
  return show(arguments, client.get(pool_path(arguments.words[0])), pool_details);
}

std::string run_workers(const Arguments& arguments, const Client& client) {
  return show(arguments, client.get(pool_path(arguments.words[0], "/workers")), workers_table);
}

std::string run_why(const Arguments& arguments, const Client& client) {
  const std::string& pool = arguments.words[0];
  std::string text = show(arguments, client.get(pool_path(pool, "/decisions")), decisions_table);
  if (arguments.json) return text;
  return text + pool_trouble(parse_answer(client.get(pool_path(pool))));
}

std::string run_metrics(const Arguments& arguments, const Client& client) {
  if (arguments.json)
    throw UsageError(
        "metrics are Prometheus text and have no --json; 'status --json' has the same figures");
  return with_newline(printable_lines(client.get("/metrics")));
}

std::string run_set(const Arguments& arguments, const Client& client) {
  const std::string& pool = arguments.words[0];
  Json patch = limits_body(std::span(arguments.words).subspan(1), arguments.for_seconds);
  std::string text = show(arguments, client.patch(pool_path(pool, "/limits"), patch.dump()),
                          [](const Json& now) { return pool_limits(now) + '\n'; });
  if (arguments.json || !arguments.for_seconds) return text;
  return text + "for " + duration(patch["for"].get<double>()) + ", then as before\n";
}

std::string run_reload(const Arguments& arguments, const Client& client) {
  return tell(arguments, client, "/v1/reload", "reloaded");
}
std::string run_upgrade(const Arguments& arguments, const Client& client) {
  return tell(arguments, client, "/v1/upgrade", "upgraded");
}
std::string run_recycle(const Arguments& arguments, const Client& client) {
  const std::string& pool = arguments.words[0];
  return tell(arguments, client, pool_path(pool, "/recycle"), "recycled " + pool);
}
std::string run_drain(const Arguments& arguments, const Client& client) {
  const std::string& pool = arguments.words[0];
  return tell(arguments, client, pool_path(pool, "/drain"), "draining " + pool);
}
std::string run_resume(const Arguments& arguments, const Client& client) {
  const std::string& pool = arguments.words[0];
  return tell(arguments, client, pool_path(pool, "/resume"), "resumed " + pool);
}
std::string run_stop(const Arguments& arguments, const Client& client) {
  return tell(arguments, client, "/v1/stop", "stopping");
}

std::string run_version(const Arguments& arguments, const Client& client) {
  Json daemon;
  std::string trouble;  // one that does not answer: our own version is said all the same
  try {
    if (auto answer = client.get_if_there("/v1/status")) daemon = parse_answer(*answer);
  } catch (const std::runtime_error& e) {
    trouble = std::string("preforkd ?, ") + e.what() + '\n';
  }
  if (arguments.json)
    return pretty({{"preforkctl", kVersion},
                   {"preforkd", daemon.is_null() ? Json() : Json(member_text(daemon, "version"))}});
  return std::string("preforkctl ") + kVersion + '\n' +
         (daemon.is_null() ? trouble : daemon_line(daemon));
}

constexpr Command kCommands[] = {
    {"status", "[POOL]", 0, 1, "show the daemon and its pools, or one pool in full",
     "In the table, LIMITS are min and max; UTIL is how busy the workers were in the last 10 s;\n"
     "99 of 100 connections since the pool started were served within P99.\n",
     run_status},
    {"workers", "POOL", 1, 1, "show each worker of a pool",
     "FOR is how long the worker has been in its state, BUSY how long it has served connections,\n"
     "PEER the client that it serves now.\n",
     run_workers},
    {"why", "POOL", 1, 1, "show why a pool grew and shrank, newest last", "", run_why},
    {"metrics", "", 0, 0, "print every figure as Prometheus text", "", run_metrics},
    {"set", "POOL KEY=VALUE...", 2, kAnyNumber, "change the limits of a pool, at once",
     "With --for SECONDS they go back by themselves to what they were. The configuration file is\n"
     "not changed. Keys:\n",
     run_set, /*sets_limits=*/true},
    {"reload", "", 0, 0, "read the configuration again, and wait for the verdict",
     "If it cannot be used, nothing has changed, and the reasons are told.\n", run_reload},
    {"recycle", "POOL", 1, 1, "replace the workers of a pool, and wait until it is done",
     "No connection is cut: busy workers finish theirs first.\n", run_recycle},
    {"upgrade", "", 0, 0,
     "execute the daemon's installed binary in its place, and wait for the verdict",
     "The process, its sockets, pools and connections stay. If the new binary cannot take over,\n"
     "the old one goes on. Supervisors and workers stay as they are: 'recycle' renews them.\n",
     run_upgrade},
    {"drain", "POOL", 1, 1, "let a pool finish its connections and accept no more", "", run_drain},
    {"resume", "POOL", 1, 1, "let a drained pool accept again", "", run_resume},
    {"stop", "", 0, 0, "stop the daemon, its busy workers first finishing their connections", "",
     run_stop},
    {"version", "", 0, 0, "show the version of preforkctl, and of the daemon if one answers", "",
     run_version},
};

constexpr char kOptionsHelp[] =
    "Options, before or after the command:\n"
    "  --socket PATH       the daemon's control socket; else $PREFORKD_SOCKET; else where a\n"
    "                      daemon of this user, or of root, puts it\n"
    "  --json              what the daemon answered, as JSON\n"
    "  --for SECONDS       with 'set': how long\n"
    "  -h, --help          this help, or with a command the help of that command\n"
    "\n"
    "What is turned away for want of a place is asked again, for 10 s at most.\n"
    "Exit: 0 done; 1 refused or failed; 2 wrong usage; 3 no daemon there.\n";

// --- the arguments of `set` -------------------------------------------------------------------

template <class Number>
std::optional<Number> parse_whole_text(std::string_view text) {
  Number number{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<double> parse_seconds(std::string_view text) {
  auto seconds = parse_whole_text<double>(text);
  return seconds && std::isfinite(*seconds) && *seconds >= 0 ? seconds : std::nullopt;
}

Json limit_value(const LimitRow& limit, std::string_view text) {
  Json value;
  if (limit.is_time()) {
    if (auto seconds = parse_seconds(text)) value = *seconds;
  } else if (auto number = parse_whole_text<uint32_t>(text)) {
    value = *number;
  }
  if (value.is_null() || !is_within(value.get<double>(), limit.range))
    throw UsageError(std::string(limit.name) + "=" + std::string(text) + ": expected " +
                     expectation(limit.range, limit.is_time()));
  return value;
}

template <class Rows>
std::vector<std::string_view> names_of(const Rows& rows) {
  std::vector<std::string_view> names;
  for (const auto& row : rows) names.emplace_back(row.name);
  return names;
}

template <class Rows>
const auto* find_row(const Rows& rows, std::string_view name) {
  for (const auto& row : rows)
    if (row.name == name) return &row;
  return decltype(&*std::begin(rows)){};
}

}  // namespace

std::span<const Command> commands() { return kCommands; }

const Command& find_command(std::string_view name) {
  const Command* command = find_row(kCommands, name);
  if (!command)
    throw UsageError("unknown command '" + std::string(name) + "'" +
                     did_you_mean(name, names_of(kCommands)));
  return *command;
}

void check_arguments(const Command& command, const Arguments& arguments) {
  std::string name = command.name;
  size_t count = arguments.words.size();
  if (count < command.least || count > command.most)
    throw UsageError("expected: " + name + (*command.synopsis ? " " : "") + command.synopsis);
  for (const std::string& word : arguments.words)
    if (word.empty()) throw UsageError(name + ": an argument is empty");
  if (arguments.for_seconds && !command.sets_limits)
    throw UsageError(name + ": takes no --for, only set does");
}

Json limits_body(std::span<const std::string> pairs,
                 const std::optional<std::string>& for_seconds) {
  Json patch = Json::object();
  for (std::string_view pair : pairs) {
    size_t equals = pair.find('=');
    if (equals == pair.npos) throw UsageError("'" + std::string(pair) + "': expected KEY=VALUE");
    std::string name(pair.substr(0, equals));
    const LimitRow* limit = find_row(kLimitRows, name);
    if (!limit)
      throw UsageError("unknown limit '" + name + "'" + did_you_mean(name, names_of(kLimitRows)));
    if (patch.contains(name)) throw UsageError(name + ": given twice");
    patch[name] = limit_value(*limit, pair.substr(equals + 1));
  }
  if (for_seconds) {
    auto seconds = parse_seconds(*for_seconds);
    if (!seconds || *seconds == 0)
      throw UsageError("--for " + *for_seconds + ": expected a number of seconds above 0");
    patch["for"] = *seconds;
  }
  return patch;
}

std::string help() {
  std::string text =
      "Usage: preforkctl [--socket PATH] [--json] COMMAND [ARGUMENT...]\n\nCommands:\n";
  for (const Command& command : kCommands) {
    std::string usage = std::string("  ") + command.name + ' ' + command.synopsis;
    usage.resize(std::max<size_t>(usage.size(), 26), ' ');
    text += usage + command.summary + '\n';
  }
  return text + '\n' + kOptionsHelp;
}

std::string help(const Command& command) {
  std::string text = std::string("Usage: preforkctl ") + command.name + ' ' + command.synopsis;
  if (command.sets_limits) text += " [--for SECONDS]";
  text += std::string("\n\n") + command.name + ": " + command.summary + ".\n" + command.details;
  if (command.sets_limits)
    for (const LimitRow& limit : kLimitRows) {
      std::string name = std::string("  ") + limit.name;
      name.resize(16, ' ');
      text += name + limit.help + (limit.is_time() ? " (seconds)\n" : "\n");
    }
  return text + '\n' + kOptionsHelp;
}

}  // namespace preforkd
