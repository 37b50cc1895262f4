#include "worker/other_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <optional>

#include "base/program_environment.h"
#include "shm/layout.h"
#include "worker/serving_program.h"

namespace preforkd {
namespace {

template <class Function>
bool look_up(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

std::optional<LibraryFunctions> find_other() {
  const char *text = std::getenv(kWorkerVariable), *file = std::getenv(kLibraryVariable);
  const auto worker = text ? ServingWorker::from_text(text) : std::nullopt;
  if (!worker || worker->layout == shm::kLayoutVersion || !file) return std::nullopt;
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  LibraryFunctions f;
  uint32_t (*layout)() = nullptr;
  // One that is of this same version, or this very one, would pass them on for ever.
  if (!library || !look_up(library, "preforkd_layout", layout) || layout() != worker->layout)
    return std::nullopt;
  const bool has_all =
      look_up(library, "preforkd_accept", f.accept) && look_up(library, "preforkd_done", f.done) &&
      look_up(library, "preforkd_note", f.note) && look_up(library, "preforkd_extend", f.extend) &&
      look_up(library, "preforkd_recycle", f.recycle) && look_up(library, "preforkd_log", f.log) &&
      look_up(library, "preforkd_peer", f.peer) && look_up(library, "preforkd_local", f.local) &&
      look_up(library, "preforkd_pool", f.pool) &&
      look_up(library, "preforkd_settings", f.settings) &&
      look_up(library, "preforkd_error", f.error);
  look_up(library, "preforkd_after_fork", f.after_fork);
  return has_all ? std::optional(f) : std::nullopt;
}

}  // namespace

const LibraryFunctions* other_library() {
  static const std::optional<LibraryFunctions> found = find_other();
  return found ? &*found : nullptr;
}

}  // namespace preforkd
