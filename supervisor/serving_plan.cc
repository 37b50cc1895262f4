#include "supervisor/serving_plan.h"

#include <fcntl.h>
#include <unistd.h>

namespace preforkd {

namespace {

int accepts_on(const PoolSettings& settings) {
  if (settings.accept.empty()) return -1;
  return settings.accept == "stdin" ? 0 : 3;
}

}  // namespace

ServingWorker serving_worker(const SupervisorArgs& args, const PoolSettings& settings, int closer) {
  return {.layout = shm::kLayoutVersion,
          .pid = 0,
          .supervisor = getpid(),
          .slot = 0,
          .capacity = args.capacity,
          .segment = kSegmentFd,
          .settings = kSettingsFd,
          .networks = kNetworksFd,
          .first_listen = kFirstListenFd,
          .listen_sockets = args.listen_sockets,
          .log_level = static_cast<int>(args.log_level),
          .library = fcntl(kLibraryFd, F_GETFD) < 0 ? -1 : kLibraryFd,
          .closer = closer,
          .orders = -1,
          .accepts_on = accepts_on(settings)};
}

}  // namespace preforkd
