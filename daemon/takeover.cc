#include "daemon/takeover.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "base/clock.h"
#include "base/document.h"
#include "base/error.h"
#include "base/surroundings.h"
#include "base/version.h"
#include "daemon/launch.h"
#include "daemon/paths.h"
#include "daemon/plan.h"
#include "daemon/user_json.h"
#include "shm/region.h"

namespace preforkd {

// (As integers all: what is read is what was written.)
void to_json(nlohmann::json& json, const Limits& limits) {
  for (const LimitRow& row : kLimitRows)
    json[row.name] = row.is_time() ? limits.*row.time : Nanoseconds{limits.*row.workers};
}
void from_json(const nlohmann::json& json, Limits& limits) {
  for (const LimitRow& row : kLimitRows)
    row.is_time() ? json.at(row.name).get_to(limits.*row.time)
                  : json.at(row.name).get_to(limits.*row.workers);
}
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SocketPathRecord, path, user, device, inode)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ListenerRecord, fd, wanted, stored_as, path, inherited, uid,
                                   awaited, bound, scope)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LogPipeRecord, id, read_end)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LogLineRecord, level, worker, event, lost, pool, text)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LogRecord, pid, news, pongs, next_pipe, lost, stopped, waiting)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(GenerationRecord, number, capacity, workers, next_order, pid,
                                   orders, reports, segment, uid, claimed, inodes, success,
                                   ended_programs, state, on_trial, preloaded, quiet, was_told,
                                   stopped, start_until, drain_until, orphans_until, sockets, log)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PoolRecord, name, reason, listeners, dropped, limits,
                                   limits_before, revert_at, launched_at, pause, state,
                                   next_generation, capacity, goes_without, base, generations)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LinkRecord, web, pid, news, requests, listen, started_at,
                                   stopped, next_ticket, unanswered, log)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(HeldFileRecord, path, file, copy, size, modified, changed)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DaemonRecord, format, protocol, layout, version, called,
                                   old_image, held, failure, asked_by, file, runtime, settings,
                                   users, control_user, log_user, control_gid, control_path,
                                   started, reloads, reloads_asked, refusal, said_ready, strangers,
                                   listeners, unused, pools, links, log)

using nlohmann::json;

constexpr int kProgramSeconds = 2;  // to say what it speaks
constexpr int kTries = 30;          // to execute the image before

std::string to_json(const DaemonRecord& record) {
  // A reason, or a path, may hold bytes that are not UTF-8.
  return json(record).dump(-1, ' ', false, json::error_handler_t::replace);
}

DaemonRecord record_from_json(const std::string& text) {
  json document = json::parse(text);
  const auto format = document.value("format", 0u);
  if (format != kTakeoverFormat)
    throw std::runtime_error("the running daemon's state is of format " + std::to_string(format) +
                             ", this binary's is " + std::to_string(kTakeoverFormat) +
                             ": it takes a restart");
  const auto protocol = document.value("protocol", 0u);
  if (protocol != kProtocol)
    throw std::runtime_error("the running daemon's processes speak protocol " +
                             std::to_string(protocol) + ", this binary speaks " +
                             std::to_string(kProtocol) + ": it takes a restart");
  return document.get<DaemonRecord>();
}

DaemonRecord read_record(int fd) { return record_from_json(read_document(fd)); }

void keep_over_exec(const DaemonRecord& record, bool keep) {
  auto mark = [keep](int fd) {
    if (fd >= 0) fcntl(fd, F_SETFD, keep ? 0 : FD_CLOEXEC);
  };
  mark(record.old_image);
  for (const HeldFileRecord& held : record.held) {
    mark(held.file);
    mark(held.copy);
  }
  for (const auto& l : record.listeners) mark(l.fd);
  for (const auto& l : record.unused) mark(l.fd);
  for (const auto& pool : record.pools)
    for (const auto& g : pool.generations) {
      mark(g.orders);
      mark(g.reports);
      mark(g.segment);
      mark(g.log.read_end);
    }
  for (const auto& link : record.links) {
    mark(link.news);
    mark(link.requests);
    mark(link.listen);
    mark(link.log.read_end);
  }
  mark(record.log.news);
  mark(record.log.pongs);
}

void close_held(const DaemonRecord& record) {
  for (const HeldFileRecord& held : record.held)
    for (const int fd : {held.file, held.copy})
      if (fd >= 0) close(fd);
  close(record.old_image);
}

LoadedSettings settings_in_force(const DaemonRecord& record, std::vector<std::string>& errors) {
  LoadedSettings loaded = load_printed_settings(record.settings, "settings in force", errors);
  loaded.users.assign(record.users.begin(), record.users.end());
  loaded.control_user = record.control_user;
  loaded.log_user = record.log_user;
  if (record.control_gid >= 0) loaded.control_gid = static_cast<gid_t>(record.control_gid);
  return loaded;
}

namespace {

// A program that comes with this binary can be executed, is whole, and speaks as this binary does.
void expect_program(const Held& held) {
  Launch what;
  what.executable = held->path();
  what.image = held->to_execute();
  what.argv = {"preforkd: rehearsal", protocol_option(shm::kLayoutVersion), kSpeaksOption};
  const Finished finished = launch_and_wait(what, kProgramSeconds);
  if (finished.status == 0 && finished.output == what.argv[1] + "\n") return;
  const std::string said = finished.errors.substr(0, finished.errors.find('\n'));
  throw std::runtime_error(held->path() + ": " +
                           (said.empty() ? ending_text(finished.status) : said));
}

// (One that is cut short ends this process, which is that of a rehearsal.)
void expect_library(const HeldFile& held) {
  if (held.copy() < 0) return;
  const std::string opened = "/proc/self/fd/" + std::to_string(held.copy());
  void* library = dlopen(opened.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error("load " + held.path() + ": " + dlerror());
  const auto layout = reinterpret_cast<uint32_t (*)()>(dlsym(library, "preforkd_layout"));
  if (!layout || layout() != shm::kLayoutVersion)
    throw std::runtime_error(held.path() + ": it is of another version");
}

void expect_release(Paths paths) {
  for (const Held& held : {paths.supervisor, paths.static_supervisor, paths.control, paths.log})
    expect_program(held);
  paths.keep_copies();
  expect_library(*paths.library);
}

}  // namespace

void rehearse(const DaemonRecord& record) {
  std::vector<std::string> errors;
  LoadedSettings loaded = settings_in_force(record, errors);
  if (!errors.empty()) throw std::runtime_error(errors.front());
  if (loaded.settings.pools.size() != record.pools.size())
    throw std::runtime_error("the settings in force have another number of pools");
  expect_release(Paths::find(""));
}

// --- falling back --------------------------------------------------------------------------------

namespace {

struct {
  int image = -1;
  char* argv[8] = {};
  bool armed = false;
} fall_back_to;
constexpr int kFailures[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
constexpr unsigned kPatienceSeconds = 1;  // from one step to the next
// Of settings, which are read in the first step: a second more for so many bytes. (Lists of networks have megabytes.)
constexpr size_t kReadInOneSecond = size_t{1} << 20;

// Everything that it needs was prepared before; there is no more to do than to execute it.
void on_failure(int) {
  alarm(0);  // it would outlive this image
  hand_on_surroundings();
  syscall(SYS_execveat, fall_back_to.image, "", fall_back_to.argv, environ, AT_EMPTY_PATH);
  _exit(static_cast<int>(ExitCode::kInternal));
}

void on_exit() {
  if (fall_back_to.armed) on_failure(0);
}

}  // namespace

void arm_fall_back(const DaemonRecord& record, int document, char** argv) {
  static std::string number;
  static std::string option = "--takeover";
  static std::string crashed = "--crashed";
  number = std::to_string(document);
  fall_back_to.image = record.old_image;
  char* arguments[] = {argv[0], option.data(), number.data(), crashed.data(), nullptr};
  std::copy(std::begin(arguments), std::end(arguments), fall_back_to.argv);
  struct sigaction action {};
  action.sa_handler = on_failure;
  action.sa_flags = SA_NODEFER | SA_RESETHAND;
  for (int number_of : kFailures) sigaction(number_of, &action, nullptr);
  fall_back_to.armed = true;
  std::atexit(on_exit);
  alarm(kPatienceSeconds + static_cast<unsigned>(record.settings.size() / kReadInOneSecond));
}

void has_taken_a_step() {
  if (fall_back_to.armed) alarm(kPatienceSeconds);
}

void disarm_fall_back() {
  alarm(0);
  fall_back_to.armed = false;
  for (int number : kFailures) signal(number, SIG_DFL);
}

void fall_back(DaemonRecord record, const std::string& reason, int document, char** argv) {
  const int image = record.old_image;
  record.failure = reason;
  UniqueFd next;
  try {
    next = make_document(to_json(record));
  } catch (const std::exception&) {
    on_failure(
        0);  // before all that it needs is closed on the way out; it says that this image crashed
  }
  keep_over_exec(record, true);
  alarm(0);
  dup2(next.get(), document);  // in the place of the one that it was given: no descriptor more
  hand_on_surroundings();      // not before: dup2() takes no number beyond the soft limit
  std::string number = std::to_string(document), option = "--takeover";
  char* arguments[] = {argv[0], option.data(), number.data(), nullptr};
  // What cannot be executed for want of memory may be in a moment.
  for (int i = 0; i < kTries; ++i) {
    syscall(SYS_execveat, image, "", arguments, environ, AT_EMPTY_PATH);
    sleep_for(100 * kMillisecond);
  }
}

PutBackOnFailure::PutBackOnFailure(const DaemonRecord& record, const std::vector<int>& fds) {
  if (!record.failure.empty()) return;
  for (int fd : fds) {
    if (fd < 0) continue;
    UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!copy.is_open()) throw SysError("keep descriptors for the image before", errno);
    copies_.emplace_back(fd, std::move(copy));
  }
}

PutBackOnFailure::~PutBackOnFailure() {
  if (std::uncaught_exceptions() == exceptions_before_) return;
  for (const auto& [fd, copy] : copies_) dup2(copy.get(), fd);
}

}  // namespace preforkd
