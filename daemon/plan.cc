#include "daemon/plan.h"

#include <sys/wait.h>

#include <algorithm>
#include <filesystem>

#include "base/document.h"
#include "base/program_end.h"
#include "conf/network_lists.h"
#include "conf/pool_json.h"
#include "ipc/protocol.h"
#include "ipc/supervisor_args.h"
#include "shm/region.h"
#include "systemd/fd_store.h"

namespace preforkd {

Listeners PoolPlan::sockets() const {
  Listeners all = listeners;
  if (goes_without)
    std::erase_if(all, [](const auto& listener) { return !listener->is_listening(); });
  return all;
}

namespace {

// Of what a reload opens it is stored later.
bool is_its_own(const std::shared_ptr<Listener>& listener) {
  return !listener->outlives_us() && !has_fd_store();
}

SupervisorArgs args_for(const Paths& paths, const Incarnation& incarnation, uint32_t capacity,
                        const Listeners& sockets) {
  SupervisorArgs args;
  args.generation = incarnation.number;
  args.capacity = capacity;
  args.listen_sockets = static_cast<uint32_t>(sockets.size());
  args.own_sockets =
      static_cast<uint32_t>(std::count_if(sockets.begin(), sockets.end(), is_its_own));
  args.first_workers = incarnation.first_workers;
  args.on_trial = incarnation.on_trial;
  args.log_level = static_cast<uint32_t>(incarnation.log_level);
  args.folder = paths.libexec;
  args.library = paths.library->path();
  return args;
}

// All but the descriptors.
Launch supervisor_for(const Paths& paths, const PoolPlan& plan, const PoolSettings& settings) {
  const Held& program = paths.supervisor_for(settings);
  Launch what;
  what.executable = program->path();
  what.image = program->to_execute();
  what.trusted_file = file_of_handler(settings);
  what.user = plan.user;
  what.keeps_signals_within = true;
  what.process = settings.process;
  return what;
}

}  // namespace

std::unique_ptr<Generation> launch_generation(EventLoop& loop, GenerationOwner& owner,
                                              const Paths& paths, const PoolPlan& plan,
                                              const Incarnation& incarnation) {
  Listeners sockets = plan.sockets();
  std::stable_partition(sockets.begin(), sockets.end(), is_its_own);
  PoolSettings settings = settings_for_supervisor(paths, plan.settings);
  const uint32_t capacity =
      std::max(shm::capacity_for(std::max(settings.limits.max, incarnation.limits.max)),
               incarnation.capacity);
  settings.limits = incarnation.limits;
  shm::SegmentFds segment = shm::create_segment(capacity);
  auto [orders, to_obey] = Channel::make_pair();
  auto [reports, to_report] = make_message_pipe();
  const UniqueFd document = make_document(pool_to_json(settings));
  const UniqueFd networks = make_network_lists(plan.settings);
  const SupervisorArgs args = args_for(paths, incarnation, capacity, sockets);
  Launch what = supervisor_for(paths, plan, settings);
  what.argv =
      args.to_argv("preforkd: supervisor " + settings.name, protocol_option(shm::kLayoutVersion));
  what.descriptors = {to_obey.get(),
                      to_report.get(),
                      document.get(),
                      segment.read_write.get(),
                      settings.is(ServerKind::kServe) ? paths.library->copy() : kTrustedFile,
                      networks.get()};
  for (const auto& listener : sockets) what.descriptors.push_back(listener->fd());
  LogLink::NewPipe log = plan.log->open_pipe(settings.name);
  what.output = what.errors = log.write_end.get();
  Generation::Parts parts;
  parts.number = incarnation.number;
  parts.capacity = capacity;
  parts.pool = settings.name;
  parts.uid = plan.user.uid;
  parts.start_timeout = settings.start_timeout;
  parts.on_trial = incarnation.on_trial;
  if (settings.is(ServerKind::kProgram)) parts.success = settings.success;
  parts.child = launch(what);
  parts.orders = Channel(std::move(orders));
  parts.reports = Inbox(std::move(reports));
  parts.read_only_segment = std::move(segment.read_only);
  parts.sockets = std::move(sockets);
  parts.log_pipe = std::move(log.pipe);
  return std::make_unique<Generation>(loop, owner, std::move(parts));
}

PoolSettings settings_for_supervisor(const Paths& paths, const PoolSettings& settings) {
  PoolSettings given = settings;
  for (auto* list : {&given.allow, &given.deny, &given.trusted}) *list = {};
  if (!given.is(ServerKind::kHandler)) return given;
  given.handler = paths.handler_file(given.handler);
  if (!given.process.working_directory.empty())
    given.handler = std::filesystem::absolute(given.handler).string();
  return given;
}

std::string file_of_handler(const PoolSettings& settings) {
  return settings.is(ServerKind::kHandler) ? std::filesystem::absolute(settings.handler).string()
                                           : "";
}

void log_report(const std::string& pool, const Report& report) {
  if (report.number)
    log({LogLevel::kWarning, pool, 0, std::to_string(report.number) + " log lines were lost"});
  log({static_cast<LogLevel>(std::clamp(report.level, 3, 7)), pool, report.pid, report.text,
       report.event});
}

std::string ending_text(int status) {
  if (WIFSIGNALED(status)) return program_end_text(status);
  if (WEXITSTATUS(status) == kWithoutChannel)
    return "ended: its preload closed descriptors of preforkd";
  if (WEXITSTATUS(status) == kSpeaksAnother)
    return "ended: its program is of another version than the daemon; upgrade, or put this "
           "version's back";
  return program_end_text(status);
}

}  // namespace preforkd
