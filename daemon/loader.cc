#include "daemon/loader.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <set>

#include "base/clock.h"
#include "base/document.h"
#include "base/error.h"
#include "base/fd.h"
#include "conf/builtin.h"
#include "conf/print.h"
#include "conf/text.h"
#include "daemon/resolve.h"
#include "daemon/user_json.h"

namespace preforkd {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(InForce, bound, settings)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Step, what, more_seconds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(HostName, addresses, error)

namespace {

using nlohmann::json;

constexpr Nanoseconds kMoment = 2 * kSecond;

// One line. A reason, or a path, may hold bytes that are not UTF-8.
std::string line_of(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

// The daemon is gone: nobody is told.
void say(const json& document) {
  const std::string line = line_of(document);
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = write(STDOUT_FILENO, line.data() + at, line.size() - at);
    if (n < 0 && errno != EINTR) _exit(1);
    if (n > 0) at += static_cast<size_t>(n);
  }
}

json to_json(const KeyLines& lines) {
  json keys = json::object();
  for (const auto& [path, key] : lines.keys) keys[path] = key.line;
  return {{"first", lines.first}, {"keys", keys}};
}

KeyLines lines_from_json(const json& document) {
  KeyLines lines{document.at("first"), {}};
  for (const auto& [path, line] : document.at("keys").items())
    lines.keys[path] = {line.get<unsigned>()};
  return lines;
}

json to_json(const LoadedSettings& loaded) {
  json pool_lines = json::array(), users = json::array();
  for (const KeyLines& lines : loaded.pool_lines) pool_lines.push_back(to_json(lines));
  for (const auto& user : loaded.users) users.push_back(user.value());
  json document{{"settings", print_settings(loaded.settings)},
                {"lines", to_json(loaded.lines)},
                {"pool_lines", pool_lines},
                {"users", users},
                {"control_user", loaded.control_user.value()},
                {"log_user", loaded.log_user.value()},
                {"names", loaded.names}};
  if (loaded.control_gid) document["control_gid"] = *loaded.control_gid;
  return document;
}

// While the daemon serves, what is read is a file: of anything else it cannot be known when it ends. (At the start a
// pipe, or what a shell's <( ) makes, will do.)
std::string no_file(const std::string& path) {
  struct stat s {};
  if (path.empty() || stat(path.c_str(), &s) < 0 || S_ISREG(s.st_mode) || S_ISDIR(s.st_mode))
    return "";
  const char* kind = S_ISFIFO(s.st_mode) ? "a pipe" : S_ISCHR(s.st_mode) ? "a device" : "no file";
  return "read " + path + ": it is " + kind + ", which is read at the start only, and no file";
}

// Within kMoment, by a child; none: nobody knows, or says it in time.
std::vector<std::string> look_up_soon(const std::string& host) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return {};
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  const pid_t child = fork();
  if (child < 0) return {};
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      const std::string line = json(look_up(host)).dump();
      [[maybe_unused]] ssize_t ignored = write(to.get(), line.data(), line.size());
    } catch (const std::exception&) {  // it is known then that there is nothing to know
    }
    _exit(0);
  }
  to.reset();
  std::string line;
  char part[4096];
  const Nanoseconds until = monotonic_now() + kMoment;
  for (ssize_t n = 1; n > 0;) {
    const Nanoseconds now = monotonic_now();
    pollfd p{from.get(), POLLIN, 0};
    if (now >= until) break;
    if (poll(&p, 1, static_cast<int>((until - now) / kMillisecond) + 1) <= 0) continue;
    n = read(from.get(), part, sizeof part);
    if (n > 0) line.append(part, static_cast<size_t>(n));
    if (n == 0) line += ' ';  // it is whole
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  if (!line.ends_with("] ")) return {};
  return json::parse(line).get<std::vector<std::string>>();
}

}  // namespace

LoadedSettings load(const std::string& file, std::vector<std::string>& errors,
                    const OnStep& on_step) {
  if (!file.empty()) return load_settings(file, errors, on_step);
  return load_settings_text(builtin_conf_text(), std::string(kBuiltinName), errors, on_step);
}

void look_up_hosts(LoadedSettings& loaded, const BoundEntries& bound, const OnStep& on_step) {
  std::set<std::string> unanswered;
  auto look_up_one = [&](const std::string& pool, const std::string& entry) {
    const auto own = bound.find(pool);
    const bool is_bound = own != bound.end() && std::find(own->second.begin(), own->second.end(),
                                                          entry) != own->second.end();
    std::string error;
    const auto address = parse_listen_address(entry, error);
    if (!address || !is_host_name(*address) || loaded.names.contains(address->host)) return;
    if (is_bound) {
      constexpr size_t kMostUnanswered = 3;  // nobody answers, then
      if (unanswered.contains(address->host) || unanswered.size() >= kMostUnanswered) return;
      HostName known{look_up_soon(address->host), ""};
      known.addresses.empty() ? void(unanswered.insert(address->host))
                              : void(loaded.names[address->host] = std::move(known));
      return;
    }
    if (on_step) on_step("look up host " + quote(address->host));
    HostName& name = loaded.names[address->host];
    try {
      name.addresses = look_up(address->host);
    } catch (const std::exception& e) {
      name.error = e.what();
    }
  };
  for (const PoolSettings& pool : loaded.settings.pools)
    for (const std::string& entry : pool.listen) look_up_one(pool.name, entry);
  look_up_one("", loaded.settings.control.web);
}

// --- between the child and the daemon ------------------------------------------------------------

std::string to_json(const InForce& in_force) { return line_of(json(in_force)); }

int load_for_daemon(const std::string& file, int in_force_document) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  Paths paths = Paths::find("");
  int next = in_force_document;
  for (Held* held : {&paths.supervisor, &paths.static_supervisor})
    *held = std::make_shared<HeldFile>((*held)->path(), UniqueFd(++next));
  const auto in_force = json::parse(read_document(in_force_document)).get<InForce>();
  auto step = [](const std::string& what) { say(Step{what}); };
  auto check = [](const std::string& what) { say(Step{what, kCheckSeconds}); };
  step("read " + (file.empty() ? "the built-in configuration" : file));
  std::vector<std::string> errors;
  LoadedSettings loaded;
  if (const std::string trouble = no_file(file); !trouble.empty()) {
    errors.push_back(trouble);
  } else {
    try {
      loaded = load(file, errors, step);
    } catch (const SysError& e) {  // the file was not seen: that, too, is a reason to refuse
      errors.push_back(e.what());
    }
    std::vector<std::string> ignored;
    const auto now = load_printed_settings(in_force.settings, "settings in force", ignored);
    for (std::string& reason : check_handlers(paths, loaded, now.settings.pools, check))
      if (!reason.empty()) errors.push_back(std::move(reason));
    if (errors.empty()) look_up_hosts(loaded, in_force.bound, step);
  }
  say(errors.empty() ? to_json(loaded) : json{{"errors", errors}});
  return 0;
}

std::optional<Step> step_from_json(const std::string& line) {
  const json document = json::parse(line);
  if (!document.contains("what")) return {};
  return document.get<Step>();
}

LoadedSettings result_from_json(const std::string& line, const std::string& file,
                                std::vector<std::string>& errors) {
  const json document = json::parse(line);
  if (document.contains("errors")) {
    errors = document.at("errors").get<std::vector<std::string>>();
    return {};
  }
  LoadedSettings loaded =
      load_printed_settings(document.at("settings").get<std::string>(), file, errors);
  loaded.lines = lines_from_json(document.at("lines"));
  loaded.pool_lines.clear();
  for (const json& lines : document.at("pool_lines"))
    loaded.pool_lines.push_back(lines_from_json(lines));
  for (const json& user : document.at("users")) loaded.users.push_back(user.get<EffectiveUser>());
  loaded.control_user = document.at("control_user").get<EffectiveUser>();
  loaded.log_user = document.at("log_user").get<EffectiveUser>();
  loaded.names = document.at("names").get<HostNames>();
  if (document.contains("control_gid"))
    loaded.control_gid = document.at("control_gid").get<gid_t>();
  if (loaded.users.size() != loaded.settings.pools.size() ||
      loaded.pool_lines.size() != loaded.users.size())
    throw std::runtime_error("it says who runs another number of pools");
  return loaded;
}

}  // namespace preforkd
