#include <sys/wait.h>

#include <algorithm>
#include <string_view>

#include "base/document.h"
#include "base/error.h"
#include "base/log.h"
#include "conf/network_lists.h"
#include "conf/pool_json.h"
#include "daemon/launch.h"
#include "daemon/loader.h"
#include "daemon/plan.h"
#include "ipc/protocol.h"
#include "ipc/supervisor_args.h"
#include "shm/region.h"

namespace preforkd {
namespace {

// What its code has to say itself, while it is loaded. It has not the daemon's stderr: that is everybody's.
void log_lines(const std::string& pool, std::string_view text) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    LogLine line{LogLevel::kInfo, pool, 0, text.substr(0, end)};
    own_line_from(line.text, line);
    line.pool = pool;
    log(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

// What a check needs to start a program, and to fork from it.
struct TryOut {
  const shm::SegmentFds segment = shm::create_segment(shm::kMinCapacity);
  const UniqueFd networks;

  explicit TryOut(const PoolSettings& settings) : networks(make_network_lists(settings)) {}
  void add_to(SupervisorArgs& args, Launch& what, const Paths& paths) const {
    args.try_out = true;
    args.capacity = shm::kMinCapacity;
    args.listen_sockets = 1;
    args.folder = paths.libexec;
    args.library = paths.library->path();
    paths.library->make_copy();
    const int document = what.descriptors[kSettingsFd - kOrdersFd];
    what.descriptors = {
        -1, -1, document, segment.read_write.get(), paths.library->copy(), networks.get()};
  }
};

// Why what serves could not, as its check has ended; "" if it could.
std::string trouble_of(const PoolSettings& pool, const Launch& what, const Finished& finished) {
  if (finished.status == 0) return "";
  if (WIFEXITED(finished.status) && WEXITSTATUS(finished.status) == kSpeaksAnother)
    return what.executable + " " + ending_text(finished.status);
  const std::string said = finished.output.substr(0, finished.output.find('\n'));
  if (!said.empty()) return said;
  return (pool.is(ServerKind::kHandler) ? "load " : "start ") + pool.server_file() +
         ": the check died of it (wait status " + std::to_string(finished.status) + ")";
}

// What `preforkd-supervisor --check` says of one pool; "" if it has nothing to say. Throws SettingError. `tries`: a program
// that is to be forked from is.
std::string trouble_of(const Paths& paths, const PoolSettings& settings,
                       const std::optional<EffectiveUser>& user, bool tries) {
  if (!user) return "";  // reported already, on the line of `user` or `group`
  const PoolSettings pool = settings_for_supervisor(paths, settings);
  UniqueFd document = make_document(pool_to_json(pool));
  Launch what;
  const Held& program = paths.supervisor_for(pool);
  what.executable = program->path();
  what.image = program->to_execute();
  SupervisorArgs args;
  args.check = true;
  what.descriptors = {-1, -1, document.get(), -1, kTrustedFile};
  int seconds = kCheckSeconds;
  std::optional<TryOut> try_out;
  if (tries && pool.preload && pool.is(ServerKind::kServe)) {
    try_out.emplace(settings).add_to(args, what, paths);
    seconds += static_cast<int>(to_seconds(pool.start_timeout));
  }
  what.argv = args.to_argv("preforkd: check " + pool.name, protocol_option(shm::kLayoutVersion));
  what.trusted_file = file_of_handler(pool);
  what.user = *user;
  what.keeps_signals_within = true;
  what.process = pool.process;
  const Finished finished = launch_and_wait(what, seconds);
  log_lines(pool.name, finished.errors);
  return trouble_of(pool, what, finished);
}

}  // namespace

std::vector<std::string> check_handlers(const Paths& paths, const LoadedSettings& loaded,
                                        const std::vector<PoolSettings>& running,
                                        const OnStep& on_step, bool tries) {
  std::vector<std::string> troubles(loaded.users.size());
  for (size_t i = 0; i < loaded.users.size(); ++i) {
    const PoolSettings& pool = loaded.settings.pools[i];
    const std::string key = pool.server_key(), &file = pool.server_file();
    if (file.empty() || (key == "program" && file[0] != '/')) continue;  // reported already
    if (std::find(running.begin(), running.end(), pool) != running.end()) continue;
    std::string trouble;
    if (on_step) on_step("check the " + key + " of pool " + pool.name);
    try {
      trouble = trouble_of(paths, pool, loaded.users[i], tries);
    } catch (const SettingError& e) {
      troubles[i] = loaded.where(i, e.key()) + ": " + e.key() + ": " + e.what();
    }
    if (!trouble.empty()) troubles[i] = loaded.where(i, key) + ": " + key + ": " + trouble;
  }
  return troubles;
}

}  // namespace preforkd
