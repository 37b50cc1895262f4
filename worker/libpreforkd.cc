// libpreforkd.so: the functions of preforkd/serve.h. One worker in a process, whose Intake this is; nothing is thrown
// out of here, and nothing is left behind in the heap that a caller would have to free.
#include <fcntl.h>
#include <preforkd/serve.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/document.h"
#include "base/error.h"
#include "base/log.h"
#include "base/program_environment.h"
#include "conf/pool_json.h"
#include "template/point.h"
#include "template/preloaded.h"
#include "worker/client_end.h"
#include "worker/closing.h"
#include "worker/host.h"
#include "worker/intake.h"
#include "worker/other_library.h"
#include "worker/serving_program.h"

#define PREFORKD_EXPORT extern "C" __attribute__((visibility("default")))

namespace preforkd {
namespace {

struct NotAWorker : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What the structure had when serve.h was made: programs that were compiled then have room for no more.
constexpr size_t kDescribed = 48;

using AfterFork = std::pair<void (*)(void*), void*>;
std::vector<AfterFork>& after_fork() {
  static auto* const functions = new std::vector<AfterFork>;
  return *functions;
}

// The worker that this process was started as, or the template that it was.
class Self {
 public:
  explicit Self(const ServingWorker& worker)
      : settings_(pool_from_json(read_document(worker.settings))),
        mapping_(worker.segment, worker.capacity),
        lists_(worker.networks),
        listen_sockets_(numbers(worker)),
        plan_{settings_, mapping_, listen_sockets_, worker.supervisor,
              GateRules(settings_, lists_)},
        closing_(worker.closer) {
    if (worker.orders < 0)
      intake_.emplace(plan_, worker.slot);
    else
      make_fork_point(worker);
    for (int fd : listen_sockets_)
      if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) throw SysError("listen socket", errno);
    if (worker.closer >= 0) fcntl(worker.closer, F_SETFD, FD_CLOEXEC);
    // Nothing fails from here on: whoever tries again after a failure finds these still open.
    close(worker.settings);
    close(worker.networks);
    close(worker.segment);
    if (worker.library >= 0) close(worker.library);
    set_log_level(static_cast<LogLevel>(worker.log_level));
  }

  bool accept(preforkd_connection& described) {
    // The parent-death signal is a thread's own, and the main thread has one from before the exec.
    if (gettid() != pid_) throw NotAWorker("preforkd_accept() is for the main thread");
    if (!is_started_) start();
    done(true);
    if (is_over_) return false;
    auto accepted = intake_->next();
    is_over_ = !accepted;
    if (is_over_) return false;
    connection_ = std::move(*accepted);
    intake_->begin(connection_);
    is_in_hand_ = true;
    if (fork_point_) set_timers();
    static_assert(sizeof described == kDescribed, "it would be written past its end: see serve.h");
    described = intake_->describe(connection_);
    described.fd = fd_ = connection_.fd.release();  // the caller's
    cookie_ = cookie_of(fd_);
    return true;
  }
  void done(bool served) {
    if (!is_in_hand_) return;
    const bool open = is_still_open();
    const ClientEnd end = served || !open ? ClientEnd::kNot : client_end(fd_);
    intake_->done(outcome_of(served, end));
    is_in_hand_ = false;
    if (open && end != ClientEnd::kGone) closing_.end(fd_);
    peer_.clear();
    local_.clear();
  }

  void recycle() {
    is_worn_ = true;  // of a template: each of its workers will be
    host_functions().recycle();
  }

  const PoolSettings& settings() const { return settings_; }
  pid_t pid() const { return pid_; }
  // Made when they are asked for.
  const char* peer() { return text_of(connection_.peer, peer_); }
  const char* local() { return text_of(connection_.local, local_); }

 private:
  // Of a socket, which no other one has had; 0: it is none.
  static uint64_t cookie_of(int fd) {
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0 ? cookie : 0;
  }
  static std::vector<int> numbers(const ServingWorker& worker) {
    std::vector<int> all;
    for (uint32_t i = 0; i < worker.listen_sockets; ++i)
      all.push_back(worker.first_listen + static_cast<int>(i));
    return all;
  }

  // The caller may have closed it, and have another one by its number.
  bool is_still_open() const { return cookie_ != 0 && cookie_of(fd_) == cookie_; }

  const char* text_of(const SocketAddress& address, std::string& text) const {
    if (is_in_hand_ && text.empty()) text = to_string(address);
    return text.c_str();
  }

  void make_fork_point(const ServingWorker& worker) {
    if (fcntl(worker.orders, F_SETFD, FD_CLOEXEC) < 0) throw SysError("orders", errno);
    std::vector<int> ours = listen_sockets_;
    ours.insert(ours.end(), {worker.orders, worker.closer});
    fork_point_.emplace(worker.orders, worker.supervisor, mapping_, ours,
                        [this] { pid_ = getpid(); });
  }

  // A template stays in here; who comes out is a worker.
  void start() {
    if (fork_point_) {
      const uint32_t slot = fork_point_->stand();
      intake_.emplace(plan_, slot);
    }
    intake_->install_signals();
    if (is_worn_) intake_->recycle();
    is_started_ = true;
    // (One that is to leave before it has begun: next() finds the same.)
    if (fork_point_ && !intake_->wait_to_start()) return;
    for (const auto& [function, argument] : after_fork()) function(argument);
    intake_->started();
  }

  void set_timers() {
    fork_point_->set_timers();
    fork_point_.reset();
  }

  pid_t pid_ = getpid();
  const PoolSettings settings_;
  const shm::Mapping mapping_;
  const NetworkLists lists_;
  const std::vector<int> listen_sockets_;
  const IntakePlan plan_;
  std::optional<ForkPoint> fork_point_;  // of a template; of a worker until its first connection
  std::optional<Intake> intake_;         // of a worker
  const Closing closing_;
  Accepted connection_;
  int fd_ = -1;          // the connection in hand; the caller's
  uint64_t cookie_ = 0;  // of that
  std::string peer_, local_;
  bool is_started_ = false, is_in_hand_ = false, is_over_ = false, is_worn_ = false;
};

std::string last_error;

// Made by the first call that needs it. Null in a process that is none.
std::unique_ptr<Self>& self() {
  static auto* const made =
      new std::unique_ptr<Self>;  // never destroyed: the process is the worker to its end
  return *made;
}

// As a supervisor has it of its own workers.
void log_as_worker(const LogLine& line) {
  log_to_pipe({line.level, {}, getpid(), line.text, line.event});
}

Self& expect_self() {
  if (self() && self()->pid() == getpid()) return *self();
  const char* text = std::getenv(kWorkerVariable);
  const auto worker = text ? ServingWorker::from_text(text) : std::nullopt;
  if (!worker) throw NotAWorker("this process was not started by preforkd, as `serve` of a pool");
  if (worker->layout != shm::kLayoutVersion)
    throw NotAWorker("this program's libpreforkd is of another version (layout " +
                     std::to_string(shm::kLayoutVersion) + ") than its supervisor (layout " +
                     std::to_string(worker->layout) + "): upgrade preforkd, and recycle the pool");
  if (worker->pid != getpid())
    throw NotAWorker("this is not the process that preforkd started, but a child of it");
  if (!self()) {
    self() = std::make_unique<Self>(*worker);
    set_log_sink(log_as_worker);
  }
  return *self();
}

// Null in a child, too, which has its parent's memory and must not speak for it.
Self* existing_self() { return self() && self()->pid() == getpid() ? self().get() : nullptr; }

// In the handler of an exception: keeps for the caller what it says.
void note_error() {
  try {
    throw;
  } catch (const SysError& e) {
    last_error = e.what();
    errno = e.error();
  } catch (const NotAWorker& e) {
    last_error = e.what();
    errno = EPERM;
  } catch (const std::exception& e) {
    last_error = e.what();
    errno = ENOMEM;
  }
}

Self* try_self() {  // null, and why in errno and last_error
  try {
    return &expect_self();
  } catch (...) {
    note_error();
    return nullptr;
  }
}

// Before the program's own code. In a template the linker has loaded this object by $LD_PRELOAD.
[[gnu::constructor]] void begin() {
  const char *text = std::getenv(kWorkerVariable), *library = std::getenv(kLibraryVariable);
  const auto worker = text && library ? ServingWorker::from_text(text) : std::nullopt;
  if (worker && worker->layout == shm::kLayoutVersion && worker->orders >= 0 &&
      worker->pid == getpid())
    stay_preloaded(library);
}

}  // namespace
}  // namespace preforkd

using namespace preforkd;

// Which version it is of: for the rehearsal of an upgrade (daemon/takeover.cc) and for worker/other_library.h, and not in
// serve.h. (A function: of a variable a process with two versions of the library would have one.)
PREFORKD_EXPORT uint32_t preforkd_layout() { return shm::kLayoutVersion; }

PREFORKD_EXPORT int preforkd_accept(preforkd_connection* connection) {
  if (const auto* other = other_library()) return other->accept(connection);
  last_error.clear();
  Self* worker = try_self();
  if (!worker) return -1;
  try {
    return worker->accept(*connection) ? 1 : 0;
  } catch (...) {
    note_error();
    log_error(last_error);  // a program may do no more than to end
    return -1;
  }
}

PREFORKD_EXPORT void preforkd_done(int served) {
  if (const auto* other = other_library()) return other->done(served);
  if (Self* worker = existing_self()) worker->done(served != 0);
}

PREFORKD_EXPORT void preforkd_note(const char* text) {
  if (const auto* other = other_library()) return other->note(text);
  if (existing_self()) host_functions().note(text);
}
PREFORKD_EXPORT void preforkd_extend(uint32_t milliseconds) {
  if (const auto* other = other_library()) return other->extend(milliseconds);
  if (existing_self()) host_functions().extend(milliseconds);
}
PREFORKD_EXPORT void preforkd_recycle() {
  if (const auto* other = other_library()) return other->recycle();
  if (Self* worker = try_self()) worker->recycle();
}
PREFORKD_EXPORT void preforkd_log(int level, const char* text) {
  if (const auto* other = other_library()) return other->log(level, text);
  host_functions().log(level, text);
}

PREFORKD_EXPORT int preforkd_after_fork(void (*function)(void*), void* argument) {
  if (const auto* other = other_library())
    return other->after_fork ? other->after_fork(function, argument) : (errno = ENOSYS, -1);
  try {
    after_fork().emplace_back(function, argument);
    return 0;
  } catch (...) {
    note_error();
    return -1;
  }
}

PREFORKD_EXPORT const char* preforkd_peer() {
  if (const auto* other = other_library()) return other->peer();
  Self* worker = existing_self();
  return worker ? worker->peer() : "";
}
PREFORKD_EXPORT const char* preforkd_local() {
  if (const auto* other = other_library()) return other->local();
  Self* worker = existing_self();
  return worker ? worker->local() : "";
}

PREFORKD_EXPORT const char* preforkd_pool() {
  if (const auto* other = other_library()) return other->pool();
  Self* worker = try_self();
  return worker ? worker->settings().name.c_str() : nullptr;
}
PREFORKD_EXPORT const char* preforkd_settings() {
  if (const auto* other = other_library()) return other->settings();
  Self* worker = try_self();
  return worker ? worker->settings().settings.c_str() : nullptr;
}

PREFORKD_EXPORT const char* preforkd_error() {
  if (const auto* other = other_library()) return other->error();
  return last_error.c_str();
}
