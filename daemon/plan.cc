#include "daemon/plan.h"

#include <fcntl.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/document.h"
#include "conf/pool_json.h"
#include "daemon/supervisor_args.h"
#include "shm/region.h"

namespace preforkd {

std::unique_ptr<Generation> launch_generation(EventLoop& loop, GenerationOwner& owner,
                                              const Paths& paths, const PoolPlan& plan,
                                              const Incarnation& incarnation) {
  PoolSettings settings = settings_for_supervisor(paths, plan.settings);
  const uint32_t capacity =
      shm::capacity_for(std::max(settings.limits.max, incarnation.limits.max));
  shm::SegmentFds segment = shm::create_segment(capacity);
  auto [ours, theirs] = Channel::make_pair();
  Channel channel(std::move(ours));
  channel.name_senders();
  settings.limits = incarnation.limits;
  UniqueFd document = make_document(pool_to_json(settings));
  UniqueFd handler = open_handler(settings);

  SupervisorArgs args;
  args.generation = incarnation.number;
  args.capacity = capacity;
  args.listen_sockets = static_cast<uint32_t>(plan.listeners.size());
  args.own_sockets = static_cast<uint32_t>(
      std::count_if(plan.listeners.begin(), plan.listeners.end(),
                    [](const auto& listener) { return !listener->outlives_us(); }));
  args.first_workers = incarnation.first_workers;
  args.on_trial = incarnation.on_trial;
  args.log_level = static_cast<int>(incarnation.log_level);
  args.folder = paths.static_supervisor.substr(0, paths.static_supervisor.rfind('/'));
  Launch what;
  what.executable = paths.supervisor_for(settings);
  what.argv = args.to_argv("preforkd: supervisor " + settings.name);
  what.descriptors = {theirs.get(), document.get(), segment.read_write.get(), handler.get()};
  Listeners sockets = plan.listeners;  // its own ones first
  std::stable_partition(sockets.begin(), sockets.end(),
                        [](const auto& listener) { return !listener->outlives_us(); });
  for (const auto& listener : sockets) what.descriptors.push_back(listener->fd());
  what.user = plan.user;
  what.process = settings.process;
  return std::make_unique<Generation>(loop, owner, incarnation.number, capacity, settings.name,
                                      launch(what), std::move(channel),
                                      std::move(segment.read_only), std::move(sockets));
}

PoolSettings settings_for_supervisor(const Paths& paths, const PoolSettings& settings) {
  PoolSettings given = settings;
  if (given.handler.empty()) return given;
  given.handler = paths.handler_file(given.handler);
  if (!given.process.working_directory.empty())
    given.handler = std::filesystem::absolute(given.handler).string();
  return given;
}

UniqueFd open_handler(const PoolSettings& settings) {
  if (settings.handler.empty()) return {};
  // O_NONBLOCK: should it be a pipe, nobody is there to write.
  return UniqueFd(open(settings.handler.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
}

void log_report(const std::string& pool, const Report& report) {
  if (report.number)
    log({LogLevel::kWarning, pool, 0, std::to_string(report.number) + " log lines were lost"});
  log({static_cast<LogLevel>(std::clamp(report.level, 3, 7)), pool, report.pid, report.text,
       report.event});
}

std::string ending_text(int status) {
  if (WIFSIGNALED(status))
    return std::string("killed by signal ") + std::to_string(WTERMSIG(status)) + " (" +
           strsignal(WTERMSIG(status)) + ")";
  if (WEXITSTATUS(status) == kWithoutChannel)
    return "ended: its preload closed descriptors of preforkd";
  return "exited with status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace preforkd
