// libpreforkd.so: the functions of preforkd/serve.h, for a program that calls them. Nothing is thrown
// out of here, and nothing is left behind in the heap that a caller would have to free.
#include <preforkd/serve.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "worker/host.h"
#include "worker/other_library.h"
#include "worker/this_worker.h"

#define PREFORKD_EXPORT extern "C" __attribute__((visibility("default")))

namespace preforkd {
namespace {

// What the structure had when serve.h was made: programs that were compiled then have room for no more.
constexpr size_t kDescribed = 48;

std::string last_error;

// False: it is to leave.
bool accept(ThisWorker& worker, preforkd_connection& described) {
  // The parent-death signal is a thread's own, and the main thread has one from before the exec.
  if (gettid() != worker.pid()) throw NotAWorker("preforkd_accept() is for the main thread");
  if (const std::string& by_itself = worker.settings().accept; !by_itself.empty())
    throw NotAWorker("with accept = \"" + by_itself + "\" the program accepts by libc's accept()");
  static bool is_over = false;
  worker.start();
  worker.done(true);
  if (is_over) return false;
  auto accepted = worker.intake().next();
  is_over = !accepted;
  if (is_over) return false;
  worker.begin(std::move(*accepted));
  static_assert(sizeof described == kDescribed, "it would be written past its end: see serve.h");
  described = worker.describe();
  described.fd = worker.hand_over();
  return true;
}

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

ThisWorker* try_worker() {  // null, and why in errno and last_error
  try {
    return &ThisWorker::expect();
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
  ThisWorker* worker = try_worker();
  if (!worker) return -1;
  try {
    return accept(*worker, *connection) ? 1 : 0;
  } catch (...) {
    note_error();
    log_error(last_error);  // a program may do no more than to end
    return -1;
  }
}

PREFORKD_EXPORT void preforkd_done(int served) {
  if (const auto* other = other_library()) return other->done(served);
  if (ThisWorker* worker = ThisWorker::existing()) worker->done(served != 0);
}

PREFORKD_EXPORT void preforkd_note(const char* text) {
  if (const auto* other = other_library()) return other->note(text);
  if (ThisWorker::existing()) host_functions().note(text);
}
PREFORKD_EXPORT void preforkd_extend(uint32_t milliseconds) {
  if (const auto* other = other_library()) return other->extend(milliseconds);
  if (ThisWorker::existing()) host_functions().extend(milliseconds);
}
PREFORKD_EXPORT void preforkd_recycle() {
  if (const auto* other = other_library()) return other->recycle();
  if (ThisWorker* worker = try_worker()) worker->recycle();
}
PREFORKD_EXPORT void preforkd_log(int level, const char* text) {
  if (const auto* other = other_library()) return other->log(level, text);
  host_functions().log(level, text);
}

PREFORKD_EXPORT int preforkd_after_fork(void (*function)(void*), void* argument) {
  if (const auto* other = other_library())
    return other->after_fork ? other->after_fork(function, argument) : (errno = ENOSYS, -1);
  try {
    ThisWorker::after_fork(function, argument);
    return 0;
  } catch (...) {
    note_error();
    return -1;
  }
}

PREFORKD_EXPORT const char* preforkd_peer() {
  if (const auto* other = other_library()) return other->peer();
  ThisWorker* worker = ThisWorker::existing();
  return worker ? worker->peer() : "";
}
PREFORKD_EXPORT const char* preforkd_local() {
  if (const auto* other = other_library()) return other->local();
  ThisWorker* worker = ThisWorker::existing();
  return worker ? worker->local() : "";
}

PREFORKD_EXPORT const char* preforkd_pool() {
  if (const auto* other = other_library()) return other->pool();
  ThisWorker* worker = try_worker();
  return worker ? worker->settings().name.c_str() : nullptr;
}
PREFORKD_EXPORT const char* preforkd_settings() {
  if (const auto* other = other_library()) return other->settings();
  ThisWorker* worker = try_worker();
  return worker ? worker->settings().settings.c_str() : nullptr;
}

PREFORKD_EXPORT const char* preforkd_error() {
  if (const auto* other = other_library()) return other->error();
  return last_error.c_str();
}
