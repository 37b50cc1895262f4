#include "supervisor/try_out.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/system_call.h"
#include "conf/network_lists.h"
#include "shm/doorbell.h"
#include "supervisor/serving_plan.h"
#include "supervisor/supervisor.h"

namespace preforkd {
namespace {

constexpr uint32_t kWorkers = 2;
constexpr int kOthersAtOnce = 1000;

// At which nobody can connect: it has a name that nobody knows.
UniqueFd make_listen_socket() {
  UniqueFd made(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!made.is_open() ||
      bind(made.get(), reinterpret_cast<sockaddr*>(&address), sizeof address.sun_family) < 0 ||
      listen(made.get(), 1) < 0)
    throw SysError("listen", errno);
  return made;
}

std::vector<int> descriptors_of(pid_t pid) {
  std::vector<int> all;
  DIR* const folder = opendir(("/proc/" + std::to_string(pid) + "/fd").c_str());
  if (!folder) return all;  // it is dead
  while (const dirent* entry = readdir(folder))
    if (entry->d_name[0] != '.') all.push_back(std::atoi(entry->d_name));
  closedir(folder);
  std::sort(all.begin(), all.end());
  return all;
}

// What is read from, and where whoever reads takes something away: a file's place, what waits in a pipe.
bool is_to_be_own(pid_t pid, int fd) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  struct stat link {
  }, target{};
  if (lstat(path.c_str(), &link) < 0 || stat(path.c_str(), &target) < 0) return false;
  if (!(link.st_mode & S_IRUSR)) return false;  // as the kernel says how it is open
  const bool is_read = S_ISREG(target.st_mode) && !(link.st_mode & S_IWUSR);
  return is_read || S_ISFIFO(target.st_mode) || (target.st_mode & S_IFMT) == 0;
}

// "descriptor 5 (/path)": what two workers share and must not, or "".
std::string what_is_shared(pid_t one, pid_t other) {
  for (int fd : descriptors_of(one)) {
    if (!is_to_be_own(one, fd) || system_call(SYS_kcmp, one, other, KCMP_FILE, fd, fd) != 0)
      continue;
    char name[1024];
    const std::string path = "/proc/" + std::to_string(one) + "/fd/" + std::to_string(fd);
    const ssize_t size = readlink(path.c_str(), name, sizeof name);
    return "descriptor " + std::to_string(fd) + " (" +
           std::string(name, static_cast<size_t>(std::max<ssize_t>(size, 0))) + ")";
  }
  return "";
}

class TryOut {
 public:
  TryOut(const WorkerPlan& plan, shm::Scoreboard& board)
      : plan_(plan),
        board_(board),
        workforce_(
            plan, board, {-1, -1, -1, -1}, [](pid_t, int) {}, [](pid_t) { return false; },
            [](pid_t, bool) { return false; }) {}
  ~TryOut() { end(); }

  std::string run() {
    const Nanoseconds timeout = plan_.settings.start_timeout;
    const Nanoseconds until = timeout ? monotonic_now() + timeout : kNever;
    while (trouble().empty() && !are_ready()) {
      const Nanoseconds now = monotonic_now();
      if (now >= until)
        return "it is not ready in " + std::to_string(timeout / kMillisecond) +
               " ms (timeouts.start)";
      const uint32_t rings = shm::rings(board_.segment().doorbell);
      if (!take_a_turn(now) && trouble().empty() && !are_ready())
        shm::sleep_until_rung(board_.segment().doorbell, rings, until);
    }
    if (!trouble().empty()) return trouble();
    std::vector<pid_t> pids;
    workforce_.table().each([&](uint32_t slot) { pids.push_back(workforce_.table()[slot].pid); });
    const std::string shared = what_is_shared(pids[0], pids[1]);
    return shared.empty() ? "" : "its workers share " + shared;
  }

 private:
  bool take_a_turn(Nanoseconds now) {
    bool did_something = reap(now);
    Template& the_template = workforce_.the_template();
    the_template.look(now);
    did_something |= workforce_.take_over_newborns(now).has_value();
    workforce_.hand_out_start_tickets(now);
    if (the_template.is_free() && board_.alive() < kWorkers)
      did_something |= workforce_.fork(kWorkers - board_.alive(), now).count > 0;
    return did_something;
  }

  bool reap(Nanoseconds now) {
    bool any = false;
    int others = kOthersAtOnce;
    while (const auto death = workforce_.reap(now, others)) {
      any = true;
      if (!death->only_stopped) died_ = "a worker " + death->text;
    }
    return any;
  }

  std::string trouble() { return died_.empty() ? workforce_.the_template().trouble() : died_; }
  // (They may be idle before they are found.)
  bool are_ready() {
    return workforce_.the_template().is_free() && board_.counts().idle == kWorkers;
  }

  void end() {
    workforce_.the_template().stop();
    workforce_.table().each([&](uint32_t slot) { workforce_.table().signal(slot, SIGKILL); });
  }

  const WorkerPlan& plan_;
  shm::Scoreboard& board_;
  Workforce workforce_;
  std::string died_;
};

}  // namespace

std::string try_out_preload(const SupervisorArgs& args, const PoolSettings& settings) {
  // (Signals ring the doorbell in it until the process has ended.)
  const auto& mapping = *new shm::Mapping(kSegmentFd, args.capacity);
  const NetworkLists lists(kNetworksFd);
  const auto board = std::make_unique<shm::Scoreboard>(mapping, settings.name, 0, getpid(),
                                                       settings.starting, monotonic_now());
  mapping.segment().published.leaving.store(shm::kOnTrial);
  mapping.segment().published.ring_on.store(shm::kRingOnStarted);
  install_supervisor_signals(mapping.segment().doorbell);
  set_log_level(LogLevel::kError);  // what is wrong is the answer
  const UniqueFd listens = make_listen_socket();
  if (dup3(listens.get(), kFirstListenFd, O_CLOEXEC) < 0) throw SysError("dup", errno);
  const std::vector<int> sockets{kFirstListenFd};
  ServingProgram program(settings.serve, args.folder, args.library,
                         serving_worker(args, settings, -1));
  const WorkerPlan plan{
      {settings, mapping, sockets, getpid(), GateRules(settings, lists)}, &program, Closing()};
  return TryOut(plan, *board).run();
}

}  // namespace preforkd
