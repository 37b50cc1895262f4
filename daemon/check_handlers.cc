#include "base/document.h"
#include "base/error.h"
#include "conf/pool_json.h"
#include "conf/user.h"
#include "daemon/daemon.h"
#include "daemon/supervisor_args.h"

namespace preforkd {
namespace {

constexpr int kCheckSeconds = 10;  // for loading it; meanwhile the daemon does nothing else

// What `preforkd-supervisor --check` says of one pool; "" if it has nothing to say. Throws SettingError.
std::string trouble_of(const Paths& paths, const PoolSettings& settings) {
  std::string error;
  auto user = effective_user(settings.user, settings.group, error);
  if (!user) return "";  // reported already, on the line of `user` or `group`
  const PoolSettings pool = settings_for_supervisor(paths, settings);
  UniqueFd document = make_document(pool_to_json(pool));
  UniqueFd handler = open_handler(pool);
  Launch what;
  what.executable = paths.supervisor_for(pool);
  SupervisorArgs args;
  args.check = true;
  what.argv = args.to_argv("preforkd: check " + pool.name);
  what.descriptors = {-1, document.get(), -1, handler.get()};
  what.user = *user;
  what.process = pool.process;
  Finished finished = launch_and_wait(what, kCheckSeconds);
  if (finished.status == 0) return "";
  std::string said = finished.output.substr(0, finished.output.find('\n'));
  if (!said.empty()) return said;
  return "load " + pool.handler + ": the check died of it (wait status " +
         std::to_string(finished.status) + ")";
}

}  // namespace

void check_handlers(const Paths& paths, const LoadedSettings& loaded,
                    std::vector<std::string>& errors) {
  for (size_t i = 0; i < loaded.settings.pools.size(); ++i) {
    const PoolSettings& pool = loaded.settings.pools[i];
    const std::string key = pool.server_key(), &file = pool.server_file();
    if (file.empty() || (key == "program" && file[0] != '/')) continue;  // reported already
    std::string trouble;
    try {
      trouble = trouble_of(paths, pool);
    } catch (const SettingError& e) {
      errors.push_back(loaded.where(i, e.key()) + ": " + e.key() + ": " + e.what());
    }
    if (!trouble.empty()) errors.push_back(loaded.where(i, key) + ": " + key + ": " + trouble);
  }
}

}  // namespace preforkd
