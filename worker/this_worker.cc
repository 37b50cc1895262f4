#include "worker/this_worker.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>

#include "base/document.h"
#include "base/error.h"
#include "base/log.h"
#include "base/program_environment.h"
#include "base/system_call.h"
#include "conf/pool_json.h"
#include "worker/client_end.h"
#include "worker/host.h"

namespace preforkd {
namespace {

using AfterFork = std::pair<void (*)(void*), void*>;
std::vector<AfterFork>& functions_after_fork() {
  static auto* const functions = new std::vector<AfterFork>;
  return *functions;
}

std::vector<int> listen_sockets_of(const ServingWorker& worker) {
  std::vector<int> all;
  for (uint32_t i = 0; i < worker.listen_sockets; ++i)
    all.push_back(worker.first_listen + static_cast<int>(i));
  return all;
}

std::string& handed_on() {
  static auto* const text = new std::string;
  return *text;
}

// Null in a process that is none.
std::unique_ptr<ThisWorker>& made() {
  static auto* const worker = new std::unique_ptr<ThisWorker>;
  return *worker;
}

// As a supervisor has it of its own workers.
void log_as_worker(const LogLine& line) {
  log_to_pipe({line.level, {}, getpid(), line.text, line.event});
}

}  // namespace

void ThisWorker::keep(const std::string& text) { handed_on() = text; }

ThisWorker& ThisWorker::expect() {
  if (ThisWorker* there = existing()) return *there;
  const char* variable = std::getenv(kWorkerVariable);
  const std::string text = variable ? variable : handed_on();
  const auto worker = text.empty() ? std::nullopt : ServingWorker::from_text(text.c_str());
  if (!worker) throw NotAWorker("this process was not started by preforkd, as `serve` of a pool");
  if (worker->layout != shm::kLayoutVersion)
    throw NotAWorker("this program's libpreforkd is of another version (layout " +
                     std::to_string(shm::kLayoutVersion) + ") than its supervisor (layout " +
                     std::to_string(worker->layout) + "): upgrade preforkd, and recycle the pool");
  if (worker->pid != getpid())
    throw NotAWorker("this is not the process that preforkd started, but a child of it");
  if (!made()) {
    made() = std::make_unique<ThisWorker>(*worker);
    set_log_sink(log_as_worker);
  }
  return *made();
}

ThisWorker* ThisWorker::existing() {
  return made() && made()->pid() == getpid() ? made().get() : nullptr;
}

ThisWorker::ThisWorker(const ServingWorker& worker)
    : pid_(getpid()),
      settings_(pool_from_json(read_document(worker.settings))),
      mapping_(worker.segment, worker.capacity),
      lists_(worker.networks),
      listen_sockets_(listen_sockets_of(worker)),
      plan_{settings_, mapping_, listen_sockets_, worker.supervisor, GateRules(settings_, lists_)},
      closing_(worker.closer) {
  if (worker.orders < 0)
    intake_.emplace(plan_, worker.slot);
  else
    make_fork_point(worker);
  for (int fd : listen_sockets_)
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) throw SysError("listen socket", errno);
  if (worker.closer >= 0) fcntl(worker.closer, F_SETFD, FD_CLOEXEC);
  // Nothing fails from here on: whoever tries again after a failure finds these still open.
  for (int fd : {worker.settings, worker.networks, worker.segment, worker.library})
    if (fd >= 0) system_call(SYS_close, fd);
  set_log_level(static_cast<LogLevel>(worker.log_level));
}

void ThisWorker::make_fork_point(const ServingWorker& worker) {
  if (fcntl(worker.orders, F_SETFD, FD_CLOEXEC) < 0) throw SysError("orders", errno);
  std::vector<int> ours = listen_sockets_;
  ours.insert(ours.end(), {worker.orders, worker.closer});
  fork_point_.emplace(worker.orders, worker.supervisor, mapping_, ours,
                      [this] { pid_ = getpid(); });
}

void ThisWorker::start() {
  if (is_started_) return;
  if (fork_point_) {
    const uint32_t slot = fork_point_->stand();
    intake_.emplace(plan_, slot);
  }
  intake_->install_signals();
  if (is_worn_) intake_->recycle();
  is_started_ = true;
  // (One that is to leave before it has begun: the first look finds the same.)
  if (fork_point_ && !intake_->wait_to_start()) return;
  for (const auto& [function, argument] : functions_after_fork()) function(argument);
  intake_->started();
}

void ThisWorker::begin(Accepted accepted) {
  connection_ = std::move(accepted);
  intake_->begin(connection_);
  is_in_hand_ = true;
  fd_ = connection_.fd.get();
  cookie_ = cookie_of(fd_);
  if (fork_point_) fork_point_->begin_timers();
  fork_point_.reset();
}

int ThisWorker::hand_over() { return connection_.fd.release(); }

void ThisWorker::done(bool served, int fd) {
  if (!is_in_hand_) return;
  const bool open = cookie_ != 0 && cookie_of(fd) == cookie_;
  const ClientEnd end = served || !open ? ClientEnd::kNot : client_end(fd);
  intake_->done(outcome_of(served, end));
  is_in_hand_ = false;
  if (open && end != ClientEnd::kGone) closing_.end(fd);
  peer_.clear();
  local_.clear();
}

void ThisWorker::recycle() {
  is_worn_ = true;  // of a template: each of its workers will be
  host_functions().recycle();
}

void ThisWorker::after_fork(void (*function)(void*), void* argument) {
  functions_after_fork().emplace_back(function, argument);
}

// Of a socket, which no other one has had; 0: it is none.
uint64_t ThisWorker::cookie_of(int fd) {
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0 ? cookie : 0;
}

// Made when they are asked for.
const char* ThisWorker::text_of(const SocketAddress& address, std::string& text) const {
  if (is_in_hand_ && text.empty()) text = to_string(address);
  return text.c_str();
}

}  // namespace preforkd
