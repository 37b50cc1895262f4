// preforkd-supervisor: keeps one pool. Started by the daemon as the pool's user, in a session of its own,
// with the descriptors of ipc/supervisor_args.h; never by hand.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory_resource>
#include <new>
#include <numeric>
#include <utility>

#include "base/document.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/process_title.h"
#include "base/surroundings.h"
#include "base/undumpable.h"
#include "conf/pool_json.h"
#include "ipc/protocol.h"
#include "ipc/supervisor_args.h"
#include "supervisor/own_memory.h"
#include "supervisor/serving_plan.h"
#include "supervisor/supervisor.h"
#include "supervisor/try_out.h"
#include "worker/executable.h"

namespace preforkd {
namespace {

Supervisor* log_target = nullptr;  // for the log sink, which takes no context

void set_close_on_exec(int first, int last) {
  for (int fd = first; fd <= last; ++fd) fcntl(fd, F_SETFD, FD_CLOEXEC);
}

// An order, or the daemon's death, raises SIGIO here. Workers close their copy.
void signal_on_order(int fd) {
  if (fcntl(fd, F_SETOWN, getpid()) < 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) < 0)
    throw SysError("fcntl O_ASYNC", errno);
}

void say_failed(DaemonEnds& daemon, const std::string& text) {
  Report report;
  report.type = ReportType::kFailed;
  text.copy(report.text, sizeof report.text - 1);
  daemon.reports.send_struct(report);
}

// A worker has copies of this process's descriptors but for the two that lead to the daemon, whose numbers it needs: to
// wait with, and for a connection. With one only it would wait for ever, and serve nobody.
void expect_enough_descriptors(const ResourceLimit& nofile) {
  const uint64_t most = nofile.is_set() ? nofile.value : inherited_nofile().rlim_cur;
  if (most <= uint64_t{kReportsFd})
    throw SysError("limit nofile to " + std::to_string(most), EMFILE);
}

// Throws std::runtime_error, if its program could not be executed.
void expect_program(const PoolSettings& settings) {
  std::vector<std::string> argv = settings.program;
  if (settings.is(ServerKind::kServe)) argv = {find_program(settings.serve[0])};
  if (argv[0].empty())
    throw std::runtime_error("execute " + settings.serve[0] + ": not found in $PATH");
  std::string trouble = program_trouble(argv);
  if (trouble.empty() && (settings.preload || !settings.accept.empty()))
    trouble = preloading_trouble(argv[0]);
  if (!trouble.empty()) throw std::runtime_error(trouble);
}

int check(const SupervisorArgs& args, const PoolSettings& settings) {
  try {
    if (settings.is(ServerKind::kHandler))
      HandlerLibrary(settings.handler, kHandlerFd);
    else
      expect_program(settings);
    const std::string trouble = args.try_out ? try_out_preload(args, settings) : "";
    if (!trouble.empty()) throw std::runtime_error(trouble);
    return 0;
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
}

// An object that is never destroyed, whichever way the process ends.
template <class T>
class Forever {
 public:
  template <class... Arguments>
  T& make(Arguments&&... arguments) {
    return *new (room_) T(std::forward<Arguments>(arguments)...);
  }

 private:
  alignas(T) std::byte room_[sizeof(T)];
};

using Identity = std::pair<dev_t, ino_t>;  // {0, 0}: nothing is open there

Identity identity_of(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 ? Identity{status.st_dev, status.st_ino} : Identity{};
}

// The handler's code runs in this process, and may change of it what it likes: the signals are put right again,
// and without its descriptors it cannot go on. Throws std::runtime_error.
void preload(HandlerLibrary& handler, const PoolSettings& settings, std::vector<int> descriptors,
             shm::Doorbell& bell) {
  const size_t others = descriptors.size();
  descriptors.insert(descriptors.end(), {kOrdersFd, kReportsFd});
  std::vector<Identity> before;
  for (int fd : descriptors) before.push_back(identity_of(fd));
  handler.preload(settings.name, settings.settings);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  install_supervisor_signals(bell);
  for (size_t i = before.size(); i-- > 0;) {
    if (identity_of(descriptors[i]) == before[i]) continue;
    if (i >= others) std::exit(kWithoutChannel);
    throw std::runtime_error(
        "preload closed a listen socket of preforkd, or its way to the closer");
  }
}

std::vector<int> listen_sockets_of(const SupervisorArgs& args) {
  std::vector<int> sockets(args.listen_sockets);
  std::iota(sockets.begin(), sockets.end(), int{kFirstListenFd});
  return sockets;
}

// What the workers will serve by; it lasts as long as this process.
Server load_server(const SupervisorArgs& args, const PoolSettings& settings,
                   const ClosingPairs& closing) {
  static Forever<HandlerLibrary> handler;
  static Forever<Program> program;
  static Forever<ServingProgram> serving;
  switch (settings.kind()) {
    case ServerKind::kHandler:
      return &handler.make(settings.handler, kHandlerFd);  // closes it
    case ServerKind::kProgram:
      expect_program(settings);
      return &program.make(settings.program);
    case ServerKind::kServe:
      break;
  }
  expect_program(settings);
  return &serving.make(settings.serve, args.folder, args.library,
                       serving_worker(args, settings, closing.first.workers.get()));
}

// Ends the process with its channel open (the daemon kills whoever closes it before) and its memory mapped
// (signals ring the doorbell in it to the last moment).
[[noreturn]] void supervise(const SupervisorArgs& args, const PoolSettings& settings) {
  static Forever<DaemonEnds> ends;
  static Forever<shm::Mapping> memory;
  DaemonEnds& daemon = ends.make(Channel(UniqueFd(kOrdersFd)), Outbox(UniqueFd(kReportsFd)));
  try {
    // 1. What a worker must never reach: what leads to the daemon. What leaves a worker stays below this process.
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    set_close_on_exec(kOrdersFd, kFirstListenFd + static_cast<int>(args.listen_sockets) - 1);
    set_process_title("preforkd: supervisor " + settings.name, "preforkd-superv");
    set_log_level(static_cast<LogLevel>(args.log_level));
    // 2. The pool's shared memory; mapped, the descriptor is not needed, and workers could truncate it. (A program
    // that accepts by itself maps it again.) And its lists of networks, in the same way.
    const shm::Mapping& mapping = memory.make(kSegmentFd, args.capacity);
    if (!settings.is(ServerKind::kServe)) close(kSegmentFd);
    const NetworkLists lists(kNetworksFd);
    if (!settings.is(ServerKind::kServe)) close(kNetworksFd);
    OwnMemory own;
    auto& board = *std::pmr::polymorphic_allocator<>(&own).new_object<shm::Scoreboard>(
        mapping, settings.name, args.generation, getpid(), settings.starting, monotonic_now());
    // 3. Signals ring the doorbell, which lies in that memory.
    install_supervisor_signals(mapping.segment().doorbell);
    signal_on_order(kOrdersFd);
    // 4. What the workers will serve.
    const std::vector<int> listen_sockets = listen_sockets_of(args);
    ClosingPairs closing(settings.is(ServerKind::kProgram));
    const Server server = load_server(args, settings, closing);
    // 5. Log lines go to the daemon from here on, the handler's preload's included.
    WorkerPlan plan{{settings, mapping, listen_sockets, getpid(), GateRules(settings, lists)},
                    server,
                    Closing(closing.first.workers.get(), closing.second.workers.get())};
    Supervisor supervisor(plan, board, daemon, args, closing);
    log_target = &supervisor;
    set_log_sink([](const LogLine& line) { log_target->send_log(line); });
    std::vector<int> kept = listen_sockets;
    kept.insert(kept.end(), {closing.first.workers.get(), supervisor.closers_ends()[0]});
    if (auto* const* handler = std::get_if<HandlerLibrary*>(&server))
      preload(**handler, settings, kept, mapping.segment().doorbell);
    expect_enough_descriptors(settings.process.limits.nofile);
    // 6. Until every worker is gone.
    std::exit(supervisor.run());
  } catch (const std::exception& e) {
    say_failed(daemon, e.what());
    std::exit(static_cast<int>(ExitCode::kSystem));
  }
}

}  // namespace
}  // namespace preforkd

int main(int argc, char** argv) {
  using namespace preforkd;
  become_undumpable();
  put_surroundings_right();
  expect_protocol(argc, argv, shm::kLayoutVersion);
  set_log_sink(log_to_pipe);
  try {
    SupervisorArgs args = SupervisorArgs::from_argv(argc, argv);
    reserve_process_title(argc, argv);
    PoolSettings settings = pool_from_json(read_document(kSettingsFd));
    if (!settings.is(ServerKind::kServe)) close(kSettingsFd);
    if (args.check) return check(args, settings);
    supervise(args, settings);
  } catch (const std::exception& e) {
    log_error(e.what());
    return static_cast<int>(ExitCode::kUsage);
  }
}
