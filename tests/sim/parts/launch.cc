// How the daemon starts a supervisor, and how it finds what that has left: instead of an exec there is a process of the
// simulation, which does what preforkd-supervisor's main() does.
#include "daemon/launch.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/document.h"
#include "conf/network_lists.h"
#include "conf/pool_json.h"
#include "daemon/file_step.h"
#include "daemon/log_link.h"
#include "daemon/session.h"
#include "ipc/supervisor_args.h"
#include "tests/sim/parts.h"

namespace preforkd {
namespace sim {

namespace {

std::map<pid_t, std::unique_ptr<World>> all_worlds;

struct Beginning {
  SupervisorArgs args;
  int orders, reports;
  std::unique_ptr<NetworkLists> lists;
};

void say_failed(DaemonEnds& daemon, const std::string& text) {
  Report report;
  report.type = ReportType::kFailed;
  text.copy(report.text, sizeof report.text - 1);
  daemon.reports.send_struct(report);
}

// What it makes lasts as long as its workers: they are this process's children, and have its memory.
void supervise(World& world, Beginning& beginning) {
  auto& daemon =
      *new DaemonEnds(Channel(UniqueFd(beginning.orders)), Outbox(UniqueFd(beginning.reports)));
  try {
    auto& board =
        *new shm::Scoreboard(*world.mapping, world.settings.name, beginning.args.generation,
                             kernel->current()->pid, world.settings.starting, monotonic_now());
    install_supervisor_signals(world.mapping->segment().doorbell);
    auto& closing = *new ClosingPairs(false);
    closing.first.closers.reset();
    closing.first.workers.reset();
    auto& handler = *new HandlerLibrary(world.settings.handler, -1);
    auto& plan =
        *new WorkerPlan{{world.settings, *world.mapping, world.listen_sockets,
                         kernel->current()->pid, GateRules(world.settings, *beginning.lists)},
                        &handler,
                        Closing(-1, -1)};
    auto& supervisor = *new Supervisor(plan, board, daemon, beginning.args, closing);
    handler.preload(world.settings.name, world.settings.settings);
    kernel->exit(supervisor.run());
  } catch (const std::exception& e) {
    say_failed(daemon, e.what());
    kernel->exit(static_cast<int>(ExitCode::kSystem));
  }
}

SupervisorArgs args_of(const Launch& what) {
  std::vector<char*> argv;
  for (const std::string& argument : what.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  return SupervisorArgs::from_argv(static_cast<int>(argv.size()), argv.data());
}

}  // namespace

const std::map<pid_t, std::unique_ptr<World>>& worlds() { return all_worlds; }
World* world_of(const Process& process) { return static_cast<World*>(process.world); }
void forget_world(pid_t supervisor) { all_worlds.erase(supervisor); }

}  // namespace sim

using sim::kernel;

Child launch(const Launch& what) {
  auto descriptor = [&](SupervisorFd which) { return what.descriptors[which - kOrdersFd]; };
  auto beginning = std::make_shared<sim::Beginning>();
  beginning->args = sim::args_of(what);
  beginning->orders = descriptor(kOrdersFd);
  beginning->reports = descriptor(kReportsFd);
  beginning->lists = std::make_unique<NetworkLists>(descriptor(kNetworksFd));
  auto made = std::make_unique<sim::World>();
  sim::World& world = *made;
  world.settings = pool_from_json(read_document(descriptor(kSettingsFd)));
  world.mapping = std::make_unique<shm::Mapping>(descriptor(kSegmentFd), beginning->args.capacity);
  const auto& all = what.descriptors;
  world.listen_sockets.assign(all.begin() + (kFirstListenFd - kOrdersFd), all.end());
  world.generation = beginning->args.generation;
  world.is_on_trial = beginning->args.on_trial;
  world.first_workers = std::max(world.settings.limits.min, beginning->args.first_workers);
  world.behaviour = &sim::handler_named(world.settings.handler);
  sim::Process& process = kernel->spawn(kernel->current(), sim::Kind::kSupervisor,
                                        [&world, beginning] { sim::supervise(world, *beginning); });
  process.world = &world;
  process.is_subreaper = true;
  world.process = &process;
  auto& orders = *kernel->file<sim::MessageEnd>(beginning->orders);
  orders.owner = process.pid;
  orders.raises_sigio = true;
  kernel->file<sim::MessageEnd>(beginning->reports)->owner = process.pid;
  sim::all_worlds.emplace(process.pid, std::move(made));
  Child child;
  child.pid = process.pid;
  return child;
}

void Child::signal(int number) const {
  kernel->step();
  kernel->send_signal(pid, number);
}
bool Child::has_executed() const { return true; }
std::optional<LaunchFailure> Child::failure() { return std::nullopt; }
std::string LaunchFailure::text() const { return step; }

// --- what supervisors leave ----------------------------------------------------------------------

// (To read it from /proc takes its time: who looks until it is late is not to look for ever.)
std::optional<std::vector<pid_t>> own_children() {
  kernel->lose_processor(50 * kMicrosecond);
  std::vector<pid_t> pids;
  for (const sim::Process* child : kernel->current()->children) pids.push_back(child->pid);
  return pids;
}

std::optional<bool> is_of_user(pid_t, uid_t) { return false; }

void signal_trees(const std::vector<pid_t>& roots, int number, Nanoseconds until) {
  for (pid_t root : roots) {
    sim::Process* process = kernel->find(root);
    if (!process) continue;
    std::vector<pid_t> below;
    for (const sim::Process* child : process->children) below.push_back(child->pid);
    kernel->send_signal(root, number);
    signal_trees(below, number, until);
  }
}

void signal_session(pid_t session, int number) {
  const std::vector<sim::Process*> children = kernel->current()->children;
  for (const sim::Process* child : children)
    if (child->session == session) kernel->send_signal(child->pid, number);
}

bool is_late_file_step(pid_t) { return false; }

// --- the log process: there is none ---------------------------------------------------------------

LogLink::LogLink(EventLoop& loop, Held executable, EffectiveUser user)
    : loop_(loop), executable_(std::move(executable)), user_(std::move(user)) {}
LogLink::~LogLink() = default;
LogLink::NewPipe LogLink::open_pipe(const std::string&) { return {}; }
LogPipe::~LogPipe() = default;

}  // namespace preforkd
