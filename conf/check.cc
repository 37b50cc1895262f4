#include "conf/check.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/networks.h"
#include "base/program_environment.h"
#include "conf/keys.h"
#include "conf/text.h"
#include "conf/user.h"

namespace preforkd {
namespace {

void check_required(const KeyLines& lines, Problems& problems) {
  for (const Key& key : keys()) {
    std::string path = path_of(key.section, key.name);
    if (key.section == Section::kPool && key.presence == Presence::kRequired && !lines.has(path))
      problems.add(lines.first, path + ": missing; every pool needs one");
  }
}

void check_server(const PoolSettings& pool, const KeyLines& lines, Problems& problems) {
  bool handler = !pool.handler.empty() || lines.wrong("handler");
  bool program = lines.has("program");
  const bool serve = lines.has("serve");
  if (serve && (handler || program))
    problems.add(std::max({lines.of("handler"), lines.of("program"), lines.of("serve")}),
                 "serve: a pool has a handler, a program or serve: one of them");
  else if (handler && program)
    problems.add(std::max(lines.of("handler"), lines.of("program")),
                 "program: a pool has a handler, a program or serve: one of them");
  if (!handler && !program && !serve)
    problems.add(lines.of("handler"),
                 "handler: missing; every pool needs a handler, a program or serve");
  if (!pool.program.empty() && !lines.wrong("program") && !pool.program[0].starts_with('/'))
    problems.add(lines.of("program[0]"),
                 "program: " + quote(pool.program[0]) + ": expected an absolute path");
  if (!program && lines.has("success") && pool.success != PoolSettings().success)
    problems.add(lines.of("success"), "success: is for a pool with a program");
  if (pool.preload && !serve)
    problems.add(lines.of("preload"),
                 handler
                     ? "preload: is for a pool with serve; a handler has its own preload, and is "
                       "forked from in any case"
                     : "preload: is for a pool with serve");
  if (!pool.accept.empty() && !serve)
    problems.add(lines.of("accept"), "accept: is for a pool with serve");
  if (!pool.serve.empty() && pool.serve[0].empty())
    problems.add(lines.of("serve[0]"), "serve: \"\": expected a program");
}

void check_environment(const PoolSettings& pool, const KeyLines& lines, Problems& problems) {
  const bool serves = lines.has("serve"), has_program = serves || lines.has("program");
  for (const auto& [name, value] : pool.process.environment)
    if (serves ? is_serving_variable(name) : has_program && is_program_variable(name))
      problems.add(lines.of("environment." + name),
                   "environment." + name + ": cannot be set; a program has it from preforkd only");
}

void check_access(const PoolSettings& pool, const KeyLines& lines, Problems& problems) {
  if (pool.proxy_protocol && pool.trusted.empty() && !lines.wrong("trusted"))
    problems.add(lines.of("proxy_protocol"),
                 "trusted: missing; with proxy_protocol it says which proxies are believed");
  auto allowed = parse_networks(pool.allow);
  std::sort(allowed.begin(), allowed.end());
  auto is_allowed = [&](const Network& network) {
    return std::binary_search(allowed.begin(), allowed.end(), network);
  };
  std::string ignored;
  for (const std::string& denied : pool.deny)
    if (auto network = parse_network(denied, ignored); network && is_allowed(*network))
      problems.add(lines.of("access.deny"), "access.deny: " + quote(denied) + " is allowed, too");
  if (!pool.saturation_message.empty() && pool.saturation_queue > pool.backlog)
    problems.add(lines.of("saturation.queue"), "saturation.queue: expected at most " +
                                                   std::to_string(pool.backlog) +
                                                   ", the backlog: more cannot wait");
}

void check_limits(const PoolSettings& pool, const KeyLines& lines, Problems& problems) {
  auto is_wrong = [&](const char* key) { return lines.wrong(path_of(Section::kWorkers, key)); };
  if (pool.max_age > 0 && pool.max_age < kSecond)
    problems.add(lines.of("workers.max_age"), "workers.max_age: expected 0 or at least 1 second");
  for (const Contradiction& c : contradictions(pool.limits))
    if (!is_wrong(c.one) && !is_wrong(c.other))
      problems.add(lines.of("workers"), "workers: " + c.text);
}

// Who its processes run as; nobody, where that is reported.
std::optional<EffectiveUser> user_of(const PoolSettings& pool, const KeyLines& lines,
                                     Problems& problems, const OnStep& on_step) {
  auto ask = [&](const std::string& what, const std::string& name) {
    if (on_step) on_step("look up " + what + " " + quote(name.empty() ? "preforkd" : name));
  };
  std::string error;
  std::optional<EffectiveUser> user;
  if (!lines.wrong("user")) {
    ask("user", pool.user);
    user = effective_user(pool.user, "", error);
    if (!user) problems.add(lines.of("user"), "user: " + error);
  }
  if (lines.wrong("group") || pool.group.empty()) return user;
  ask("group", pool.group);
  // Whether a user may have the group is a question for users that there are.
  const bool is_user = user.has_value();
  if (is_user) user = effective_user(pool.user, pool.group, error);
  if (is_user ? !user : !find_group(pool.group, error))
    problems.add(lines.of("group"), "group: " + error);
  return user;
}

void check_names(const LoadedSettings& loaded, Problems& problems) {
  std::map<std::string, unsigned> taken;
  for (size_t i = 0; i < loaded.settings.pools.size(); ++i) {
    const std::string& name = loaded.settings.pools[i].name;
    unsigned line = loaded.pool_lines[i].of("name");
    if (name.empty()) continue;
    auto [first, is_new] = taken.emplace(name, line);
    if (!is_new)
      problems.add(line, "name: " + quote(name) + " is the name of the pool on line " +
                             std::to_string(first->second));
  }
}

// Nothing for an address that does not parse, and for port 0, where each gets a port of its own.
std::string address_key(const std::string& text) {
  std::string ignored;
  auto address = parse_listen_address(text, ignored);
  if (!address || (address->kind == ListenAddress::Kind::kTcp && address->port == 0)) return "";
  return normalized(*address);
}

void check_addresses(const LoadedSettings& loaded, Problems& problems) {
  std::map<std::string, unsigned> taken;
  for (size_t i = 0; i < loaded.settings.pools.size(); ++i) {
    const auto& listen = loaded.settings.pools[i].listen;
    for (size_t j = 0; j < listen.size(); ++j) {
      unsigned line = loaded.pool_lines[i].of("listen[" + std::to_string(j) + "]");
      std::string key = address_key(listen[j]);
      if (key.empty()) continue;
      auto [first, is_new] = taken.emplace(key, line);
      if (!is_new)
        problems.add(line, "listen: " + quote(listen[j]) + " is listened on already by line " +
                               std::to_string(first->second));
    }
  }
  const std::string& socket = loaded.settings.control.socket;
  const auto same = socket.empty() ? taken.end() : taken.find(address_key("unix:" + socket));
  if (same != taken.end() && !loaded.lines.wrong("control.socket"))
    problems.add(loaded.lines.of("control.socket"), "control.socket: " + quote(socket) +
                                                        " is listened on already by line " +
                                                        std::to_string(same->second));
  // The default of control.web has no line of its own: what was written is then at fault.
  auto used = taken.find(address_key(loaded.settings.control.web));
  if (used == taken.end() || loaded.lines.wrong("control.web")) return;
  std::string web = quote(loaded.settings.control.web);
  if (loaded.lines.has("control.web"))
    problems.add(
        loaded.lines.of("control.web"),
        "control.web: " + web + " is listened on already by line " + std::to_string(used->second));
  else
    problems.add(used->second,
                 "listen: " + web + " is the default of control.web; set that to another or \"\"");
}

}  // namespace

std::string normalized(const ListenAddress& address) {
  using Kind = ListenAddress::Kind;
  if (address.kind == Kind::kSystemd) return "systemd:" + address.path;
  if (address.kind == Kind::kUnix) {
    bool abstract = address.path.starts_with('@');
    return "unix:" + (abstract ? address.path
                               : std::filesystem::path(address.path).lexically_normal().string());
  }
  std::string host = address.host == "*" ? "0.0.0.0" : address.host;
  std::string port = ":" + std::to_string(address.port);
  std::string scope = host.substr(std::min(host.find('%'), host.size()));
  in_addr v4;
  in6_addr v6;
  char text[INET6_ADDRSTRLEN] = "";
  if (inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(), &v6) == 1)
    return "[" + std::string(inet_ntop(AF_INET6, &v6, text, sizeof text)) + scope + "]" + port;
  if (inet_aton(host.c_str(), &v4)) return inet_ntop(AF_INET, &v4, text, sizeof text) + port;
  for (char& c : host)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return host + port;
}

void check_settings(const LoadedSettings& loaded, Problems& problems) {
  const Settings& settings = loaded.settings;
  if (settings.pools.empty() && !loaded.lines.wrong("pools"))
    problems.add(loaded.lines.of("pools"), "pools: expected at least one pool");
  for (size_t i = 0; i < settings.pools.size(); ++i) {
    check_required(loaded.pool_lines[i], problems);
    check_server(settings.pools[i], loaded.pool_lines[i], problems);
    check_environment(settings.pools[i], loaded.pool_lines[i], problems);
    check_access(settings.pools[i], loaded.pool_lines[i], problems);
    check_limits(settings.pools[i], loaded.pool_lines[i], problems);
  }
  check_names(loaded, problems);
  check_addresses(loaded, problems);
}

void look_up_users(LoadedSettings& loaded, Problems& problems, const OnStep& on_step) {
  const Settings& settings = loaded.settings;
  for (size_t i = 0; i < settings.pools.size(); ++i)
    loaded.users.push_back(user_of(settings.pools[i], loaded.pool_lines[i], problems, on_step));
  std::string error;
  loaded.control_user = service_user(Service::kControl, error);
  if (!loaded.control_user) problems.add(loaded.lines.first, "control: " + error);
  loaded.log_user = service_user(Service::kLog, error);
  if (!loaded.log_user) problems.add(loaded.lines.first, "log: " + error);
  if (settings.control.group.empty()) return;
  if (on_step) on_step("look up group " + quote(settings.control.group));
  loaded.control_gid = find_group(settings.control.group, error);
  if (!loaded.control_gid)
    problems.add(loaded.lines.of("control.group"), "control.group: " + error);
}

}  // namespace preforkd
