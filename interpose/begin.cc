// What the library does before the program's own code, where the linker has loaded it by $LD_PRELOAD.
#include <unistd.h>

#include <cstdlib>

#include "base/program_environment.h"
#include "interpose/listener.h"
#include "template/preloaded.h"
#include "worker/serving_program.h"
#include "worker/this_worker.h"

namespace preforkd {
namespace {

// In a template, and where the program accepts by libc's accept(). Linked with libpreforkd, a program has it for itself.
[[gnu::constructor]] void begin() {
  const char *text = std::getenv(kWorkerVariable), *library = std::getenv(kLibraryVariable);
  const auto worker = text && library ? ServingWorker::from_text(text) : std::nullopt;
  if (!worker || worker->layout != shm::kLayoutVersion || worker->pid != getpid()) return;
  const bool interposes = worker->accepts_on >= 0;
  if (interposes) {
    ThisWorker::keep(text);
    Listener::begin(*worker);
  }
  if (interposes || worker->orders >= 0) stay_preloaded(library, interposes);
}

}  // namespace
}  // namespace preforkd
