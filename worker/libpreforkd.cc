// libpreforkd.so: the functions of preforkd/serve.h. One worker in a process, whose Intake this is; nothing is thrown
// out of here, and nothing is left behind in the heap that a caller would have to free.
#include <fcntl.h>
#include <preforkd/serve.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "base/document.h"
#include "base/error.h"
#include "base/log.h"
#include "base/program_environment.h"
#include "conf/pool_json.h"
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

// The worker that this process was started as.
class Self {
 public:
  explicit Self(const ServingWorker& worker)
      : settings_(pool_from_json(read_document(worker.settings))),
        mapping_(worker.segment, worker.capacity),
        lists_(worker.networks),
        listen_sockets_(numbers(worker)),
        plan_{settings_, mapping_, listen_sockets_, worker.supervisor,
              GateRules(settings_, lists_)},
        intake_(plan_, worker.slot),
        closing_(worker.closer) {
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
    if (!is_started_) {
      intake_.install_signals();
      intake_.started();
      is_started_ = true;
    }
    done(true);
    if (is_over_) return false;
    auto accepted = intake_.next();
    is_over_ = !accepted;
    if (is_over_) return false;
    connection_ = std::move(*accepted);
    intake_.begin(connection_);
    is_in_hand_ = true;
    static_assert(sizeof described == kDescribed, "it would be written past its end: see serve.h");
    described = intake_.describe(connection_);
    described.fd = fd_ = connection_.fd.release();  // the caller's
    cookie_ = cookie_of(fd_);
    return true;
  }
  void done(bool served) {
    if (!is_in_hand_) return;
    const bool open = is_still_open();
    const ClientEnd end = served || !open ? ClientEnd::kNot : client_end(fd_);
    intake_.done(outcome_of(served, end));
    is_in_hand_ = false;
    if (open && end != ClientEnd::kGone) closing_.end(fd_);
    peer_.clear();
    local_.clear();
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

  const pid_t pid_ = getpid();
  const PoolSettings settings_;
  const shm::Mapping mapping_;
  const NetworkLists lists_;
  const std::vector<int> listen_sockets_;
  const IntakePlan plan_;
  Intake intake_;
  const Closing closing_;
  Accepted connection_;
  int fd_ = -1;          // the connection in hand; the caller's
  uint64_t cookie_ = 0;  // of that
  std::string peer_, local_;
  bool is_started_ = false, is_in_hand_ = false, is_over_ = false;
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
  if (try_self()) host_functions().recycle();
}
PREFORKD_EXPORT void preforkd_log(int level, const char* text) {
  if (const auto* other = other_library()) return other->log(level, text);
  host_functions().log(level, text);
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
