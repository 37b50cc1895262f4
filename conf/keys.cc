#include "conf/keys.h"

#include <algorithm>
#include <cstdio>

#include "base/edit_distance.h"
#include "base/log.h"
#include "base/networks.h"

namespace preforkd {
namespace {

constexpr double kMaxListen = 64;
constexpr double kMaxHosts = 64;
constexpr double kMaxNetworks = 65536;
constexpr double kMaxArguments = 4096;
constexpr double kMaxInt = 2147483647, kMaxUnsigned = 4294967295;
constexpr double kMaxKeepalive = 32767;    // of TCP_KEEPIDLE
constexpr double kTenMilliseconds = 0.01;  // for times of which none at all makes no sense

std::string fine(const std::string&) { return ""; }

std::string pool_name(const std::string& name) {
  constexpr std::string_view kFirst = "abcdefghijklmnopqrstuvwxyz0123456789";
  bool good = !name.empty() && name.size() <= 32 && kFirst.find(name.front()) != kFirst.npos &&
              name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_.-") == name.npos;
  return good ? ""
              : "expected 1 to 32 characters of a-z 0-9 _ . - that begin with a letter or a digit";
}

std::string address(const std::string& text) {
  std::string error;
  parse_listen_address(text, error);
  return error;
}

std::string tcp_address(const std::string& text) {
  std::string error;
  if (text.empty()) return "";
  parse_listen_address(text, error);
  // Of what a pool may listen on, only a part may stand here.
  const bool is_other = text.starts_with("unix:") || text.starts_with("systemd:");
  return is_other || error.starts_with("expected ")
             ? "expected \"host:port\", \"[v6]:port\" or \"\""
             : error;
}

// As it stands in the Host of a request, where the port may follow it.
std::string host_name(const std::string& name) {
  constexpr std::string_view kCharacters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
  constexpr size_t kLongest = 253;  // of DNS
  const bool good = !name.empty() && name.size() <= kLongest && name.front() != '.' &&
                    name.back() != '.' && name.find("..") == name.npos &&
                    name.find_first_not_of(kCharacters) == name.npos;
  return good ? "" : "expected a name as in \"stats.example.org\", without scheme and port";
}

std::string network(const std::string& text) {
  std::string error;
  parse_network(text, error);
  return error;
}

std::string socket_path(const std::string& path) {
  if (path.empty()) return "";
  if (path.front() != '/') return "expected an absolute path or \"\"";
  return address("unix:" + path);
}

std::string folder(const std::string& path) {
  return path.empty() || path.front() == '/' ? "" : "expected an absolute path or \"\"";
}

std::string variable(const std::string& name) {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
  bool good = !name.empty() && kLetters.find(name.front()) != kLetters.npos;
  for (char c : name) good = good && (kLetters.find(c) != kLetters.npos || (c >= '0' && c <= '9'));
  return good ? "" : "expected a name of letters, digits and _";
}

std::string accept_by(const std::string& by) {
  return by.empty() || by == "stdin" || by == "fd3" ? "" : "expected stdin or fd3";
}

std::string log_level(const std::string& name) {
  LogLevel ignored;
  return log_level_from_name(name, ignored) ? "" : "expected error, warning, notice, info or debug";
}

constexpr SectionRow kSections[] = {
    {Section::kControl, Section::kFile, "control"},
    {Section::kLog, Section::kFile, "log"},
    {Section::kPool, Section::kFile, "pools"},
    {Section::kAccess, Section::kPool, "access"},
    {Section::kSaturation, Section::kPool, "saturation"},
    {Section::kWorkers, Section::kPool, "workers"},
    {Section::kTimeouts, Section::kPool, "timeouts"},
    {Section::kTcp, Section::kPool, "tcp"},
    {Section::kRlimits, Section::kPool, "rlimits"},
};

using enum Section;
using enum Type;
using enum Presence;
using Pool = PoolSettings;
using Process = ProcessSettings;

constexpr Key key_of(const LimitRow& limit) {
  return {kWorkers,         limit.is_time() ? kSeconds : kInteger,
          limit.name,       limit.is_time() ? Field(limit.time) : Field(limit.workers),
          kOptional,        limit.range.least,
          limit.range.most, fine,
          limit.help};
}
static_assert(std::size(kLimitRows) == 5, "each has its place below");

// clang-format off
constexpr Key kKeys[] = {
  {kControl, kString, "socket", &ControlSettings::socket, kOptional, 0, 0, socket_path,
   "where preforkctl finds the daemon; \"\" = control.sock in the runtime directory"},
  {kControl, kString, "group", &ControlSettings::group, kOptional, 0, 0, fine,
   "besides root and the daemon's own user, its members may change things"},
  {kControl, kString, "web", &ControlSettings::web, kOptional, 0, 0, tcp_address,
   "dashboard and metrics, to look at only; \"\" = off"},
  {kControl, kStrings, "hosts", &ControlSettings::hosts, kOptional, 0, kMaxHosts, host_name,
   "names by which web may be asked for, besides its address and localhost"},

  {kLog, kString, "level", &Settings::log_level, kOptional, 0, 0, log_level,
   "error, warning, notice, info or debug"},

  {kPool, kString, "name", &Pool::name, kRequired, 0, 0, pool_name,
   "1 to 32 of a-z 0-9 _ . -"},
  {kPool, kStrings, "listen", &Pool::listen, kRequired, 1, kMaxListen, address,
   "\"host:port\", \"[v6]:port\", \"unix:/path\", \"systemd:FDNAME\""},
  {kPool, kInteger, "backlog", &Pool::backlog, kOptional, 1, kMaxInt, fine,
   "connections that may wait; the kernel caps it at net.core.somaxconn"},
  {kPool, kString, "handler", &Pool::handler, kAlternative, 0, 0, fine,
   "a shared object: the name of one that is installed, or a path"},
  {kPool, kStrings, "program", &Pool::program, kAlternative, 1, kMaxArguments, fine,
   "a program that speaks on its stdin and stdout"},
  {kPool, kStatuses, "success", &Pool::success, kOptional, 1, kHighestStatus + 1, fine,
   "exit statuses with which program has served its connection"},
  {kPool, kStrings, "serve", &Pool::serve, kAlternative, 1, kMaxArguments, fine,
   "a program that accepts by itself"},
  {kPool, kBoolean, "preload", &Pool::preload, kOptional, 0, 0, fine,
   "serve is started once, and forked where it waits for its first client"},
  {kPool, kString, "accept", &Pool::accept, kOptional, 0, 0, accept_by,
   "\"stdin\" or \"fd3\": serve finds a listen socket there, and accepts by itself"},
  {kPool, kGroup, "settings", &Pool::settings, kOptional, 0, 0, fine,
   "the handler's own settings, whatever it understands"},
  {kPool, kString, "user", &Pool::user, kOptional, 0, 0, fine,
   "\"\" = the daemon's user; for root, preforkd if it exists, else nobody"},
  {kPool, kString, "group", &Pool::group, kOptional, 0, 0, fine,
   "\"\" = the user's own"},
  {kPool, kString, "working_directory", &Process::working_directory, kOptional, 0, 0, folder,
   "where its processes run; \"\" = where the daemon does"},
  {kPool, kEnvironment, "environment", &Process::environment, kOptional, 0, 0, variable,
   "variables, besides those of the daemon"},
  {kPool, kInteger, "nice", &Process::nice, kOptional, -20, 19, fine,
   "added to the daemon's own; above 0: others come first"},
  {kPool, kAdjustment, "oom_score_adjust", &Process::oom_score_adjust, kOptional, -1000, 1000, fine,
   "of its workers: the higher, the sooner one is killed when memory is short"},

  {kPool, kInteger, "per_source", &Pool::per_source, kOptional, 0, kMaxWorkers, fine,
   "connections at once from one address (of IPv6: from one /64); 0 = no limit"},
  {kPool, kBoolean, "proxy_protocol", &Pool::proxy_protocol, kOptional, 0, 0, fine,
   "every connection begins with a PROXY header, version 1 or 2, that says whose it is"},
  {kPool, kStrings, "trusted", &Pool::trusted, kOptional, 0, kMaxNetworks, network,
   "... and comes from one of these networks; from others none is taken"},

  {kAccess, kStrings, "allow", &Pool::allow, kOptional, 0, kMaxNetworks, network,
   "networks whose clients are let in, as in \"10.0.0.0/8\"; none = all that are not denied"},
  {kAccess, kStrings, "deny", &Pool::deny, kOptional, 0, kMaxNetworks, network,
   "networks whose clients are refused; of two that match, the longer prefix decides"},

  {kSaturation, kInteger, "queue", &Pool::saturation_queue, kOptional, 0, kMaxInt, fine,
   "connections that may wait while all workers are busy at max"},
  {kSaturation, kString, "message", &Pool::saturation_message, kOptional, 0, 0, fine,
   "what the oldest is answered when more do; \"\" = they wait"},

  key_of(kLimitRows[0]),
  key_of(kLimitRows[1]),
  key_of(kLimitRows[2]),
  key_of(kLimitRows[3]),
  {kWorkers, kInteger, "starting", &Pool::starting, kOptional, 1, kMaxWorkers, fine,
   "workers that may start at once"},
  key_of(kLimitRows[4]),
  {kWorkers, kInteger, "connections", &Pool::connections, kOptional, 0, kMaxUnsigned, fine,
   "a worker is replaced after about so many; 0 = never"},
  {kWorkers, kSeconds, "max_age", &Pool::max_age, kOptional, 0, kTenYears, fine,
   "... when it is about so old; 0 = never"},
  {kWorkers, kInteger, "max_rss", &Pool::max_rss, kOptional, 0, kMaxInt, fine,
   "... when so many MiB of it are resident; 0 = never"},
  {kWorkers, kSeconds, "min_age", &Pool::min_age, kOptional, 0, kTenYears, fine,
   "... but not while it is younger than this"},

  {kTimeouts, kSeconds, "start", &Pool::start_timeout, kOptional, kTenMilliseconds, kTenYears, fine,
   "for a worker to become ready"},
  {kTimeouts, kSeconds, "slow", &Pool::slow_timeout, kOptional, 0, kTenYears, fine,
   "a connection that takes longer is logged, once; 0 = none is"},
  {kTimeouts, kSeconds, "connection", &Pool::connection_timeout, kOptional, 0, kTenYears, fine,
   "for one connection, after which its worker is killed; 0 = none"},
  {kTimeouts, kSeconds, "drain", &Pool::drain_timeout, kOptional, 0, kTenYears, fine,
   "for connections in progress when the pool stops"},

  {kTcp, kBoolean, "nodelay", &TcpOptions::nodelay, kOptional, 0, 0, fine,
   "small answers are sent at once (TCP_NODELAY)"},
  {kTcp, kInteger, "keepalive", &TcpOptions::keepalive, kOptional, 0, kMaxKeepalive, fine,
   "a client silent for so many seconds is asked whether it is there; 0 = off"},
  {kTcp, kInteger, "defer_accept", &TcpOptions::defer_accept, kOptional, 0, kMaxKeepalive, fine,
   "a client is accepted when it sends, or after about so many seconds; 0 = off"},
  {kTcp, kInteger, "fast_open", &TcpOptions::fast_open, kOptional, 0, kMaxInt, fine,
   "how many may wait that sent data with their SYN; 0 = off"},
  {kTcp, kBoolean, "reuse_port", &TcpOptions::reuse_port, kOptional, 0, 0, fine,
   "other processes of the daemon's user may listen on the same port"},
  {kTcp, kBoolean, "freebind", &TcpOptions::freebind, kOptional, 0, 0, fine,
   "an address may be listened on that this machine does not have yet (IP_FREEBIND)"},

  {kRlimits, kLimit, "as", &ResourceLimits::as, kOptional, 0, 0, fine,
   "bytes of address space"},
  {kRlimits, kLimit, "core", &ResourceLimits::core, kOptional, 0, 0, fine,
   "bytes of a core file"},
  {kRlimits, kLimit, "cpu", &ResourceLimits::cpu, kOptional, 0, 0, fine,
   "seconds of processor time"},
  {kRlimits, kLimit, "data", &ResourceLimits::data, kOptional, 0, 0, fine,
   "bytes of data"},
  {kRlimits, kLimit, "fsize", &ResourceLimits::fsize, kOptional, 0, 0, fine,
   "bytes of a file that is written"},
  {kRlimits, kLimit, "memlock", &ResourceLimits::memlock, kOptional, 0, 0, fine,
   "bytes locked into memory"},
  {kRlimits, kLimit, "nofile", &ResourceLimits::nofile, kOptional, 0, 0, fine,
   "descriptors"},
  {kRlimits, kLimit, "nproc", &ResourceLimits::nproc, kOptional, 0, 0, fine,
   "processes of the pool's user"},
  {kRlimits, kLimit, "stack", &ResourceLimits::stack, kOptional, 0, 0, fine,
   "bytes of stack"},
};
// clang-format on

std::string number(double value) {
  // (std::to_chars would bring libm into the supervisor, and each fork copies what is mapped.)
  char digits[48];
  std::snprintf(digits, sizeof digits, "%.9f", value);
  std::string out = digits;
  out.erase(out.find_last_not_of('0') + 1);
  if (out.back() == '.') out.pop_back();
  return out;
}

}  // namespace

std::span<const SectionRow> sections() { return kSections; }
std::span<const Key> keys() { return kKeys; }

const Key* find_key(Section section, std::string_view name) {
  for (const Key& key : kKeys)
    if (key.section == section && key.name == name) return &key;
  return nullptr;
}

const SectionRow* find_section(Section parent, std::string_view name) {
  for (const SectionRow& row : kSections)
    if (row.parent == parent && row.name == name) return &row;
  return nullptr;
}

std::string path_of(Section section, std::string_view name) {
  for (const SectionRow& row : kSections)
    if (row.section == section && section != Section::kPool)
      return std::string(row.name) + "." + std::string(name);
  return std::string(name);
}

std::string expectation(const Key& key) {
  std::string range = " from " + number(key.least) + " to " + number(key.most);
  switch (key.type) {
    case Type::kString:
      return "a string";
    case Type::kStrings:
      return "an array of " + number(key.least) + " to " + number(key.most) + " strings";
    case Type::kStatuses:
      return "an array of " + number(key.least) + " to " + number(key.most) + " exit statuses";
    case Type::kInteger:
      return "an integer" + range;
    case Type::kSeconds:
      return "seconds" + range;
    case Type::kBoolean:
      return "true or false";
    case Type::kAdjustment:
      return "an integer" + range + ", or \"\"";
    case Type::kLimit:
      return "an integer of at least 0, \"unlimited\" or \"\"";
    case Type::kGroup:
      return "a group, { ... }";
    case Type::kEnvironment:
      return "a group of strings, { NAME = \"value\"; ... }";
  }
  return "";
}

std::string suggestion(Section section, std::string_view unknown) {
  constexpr size_t kLongest = 64;  // a longer one is not a key that was misspelled
  if (unknown.size() > kLongest) return "";
  std::string_view closest, home;
  size_t fewest = std::max<size_t>(1, unknown.size() / 3) + 1;
  auto consider = [&](std::string_view name) {
    size_t edits = edit_distance(unknown, name);
    if (edits >= std::min(fewest, name.size())) return;
    fewest = edits;
    closest = name;
  };
  for (const SectionRow& row : kSections)
    if (row.parent == section) consider(row.name);
  for (const Key& key : kKeys) {
    if (key.section == section) consider(key.name);
    if (key.name != unknown) continue;
    for (const SectionRow& row : kSections)
      if (row.section == key.section) home = row.name;
  }
  if (!home.empty()) return " here; it belongs into \"" + std::string(home) + "\"";
  if (!closest.empty()) return "; did you mean \"" + std::string(closest) + "\"?";
  return "";
}

}  // namespace preforkd
