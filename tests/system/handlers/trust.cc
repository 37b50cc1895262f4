// trust: a handler whose every part attacks, on order (tests/system/attacks.h). Each line of a client is an order.
//
// Settings, and the environment for its constructor, which has no others:
//
//   $TRUST_CONSTRUCTOR, preload   a file with orders ("keep; rights"), if it is there, for as soon as it is loaded,
//                                 and for preload; what they answer is appended to it with ".answers"
//   $TRUST_SEEK          looks, as soon as it is loaded, for a file with this text behind all its descriptors,
//                        and makes the file $TRUST_FOUND then
//   hang_while           a path: preload lasts as long as it exists
//   flood, flood_while   what is done without a pause while that path exists, for 6 s at most: "logs" by preload;
//                        "reports" by preload, as a supervisor sends them; "copies": the same by each worker, with
//                        the descriptors that `keep` in preload kept
//                        "locks": reports by preload, when it holds as many record locks on what they go through as
//                        it can have in 4 s; it makes the file flood_while with ".begun" then
//   quiet_while          a path: as long as it exists, each supervisor says that it serves, and then that it leaves,
//                        and stays
//   mad_while            a path: while there is that with .PID behind it, that supervisor acknowledges each
//                        order and obeys none
#include <preforkd/handler.h>
#include <sys/time.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "ipc/message_pipe.h"
#include "ipc/supervisor_args.h"
#include "tests/system/attacks_obey.h"

namespace {

using namespace preforkd;
using namespace preforkd::system_test;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// Neither moves anybody's place in the file, nor waits.
void seek_behind_descriptors(const std::string& text) {
  for (int fd = 0; fd < attack::kMostFds; ++fd) {
    char found[256] = "";
    int again = open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_NONBLOCK);
    const bool is_there = pread(fd, found, sizeof found - 1, 0) > 0 ||
                          (again >= 0 && pread(again, found, sizeof found - 1, 0) > 0);
    if (again >= 0) close(again);
    if (!is_there || !std::strstr(found, text.c_str())) continue;
    const int mark = open(variable("TRUST_FOUND").c_str(), O_WRONLY | O_CREAT, 0600);
    dprintf(mark, "descriptor %d: %s\n", fd, found);
    close(mark);
  }
}

void obey_file(const std::string& path) {
  std::ifstream file(path);
  std::string orders;
  if (!std::getline(file, orders)) return;
  std::ofstream(path + ".answers", std::ios::app) << attack::obey_each(orders) << std::endl;
}

__attribute__((constructor)) void at_load() {
  if (const std::string text = variable("TRUST_SEEK"); !text.empty()) seek_behind_descriptors(text);
  obey_file(variable("TRUST_CONSTRUCTOR"));
}

// --- reports -------------------------------------------------------------------------------------

// As the supervisor that it runs in: the daemon takes this for its words.
Outbox& as_supervisor() {
  // Never closed, not at an exit either: who said what is known by whose locks are there.
  static Outbox& outbox =
      *new Outbox(UniqueFd(fcntl(kReportsFd, F_DUPFD_CLOEXEC, attack::kFirstKept)));
  return outbox;
}

// By whichever descriptor leads to somebody: a socket, or a pipe, where its size stands before it.
void say_everywhere(const std::vector<int>& descriptors, const Report& report) {
  struct {
    uint32_t size = sizeof(Report);
    Report report;
  } sized;
  sized.report = report;
  for (int fd : descriptors)
    if (send(fd, &report, sizeof report, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == ENOTSOCK &&
        write(fd, &sized, sizeof sized) < 0 && errno == EPIPE)
      return;
}

std::string flood, flood_while;

// `once`: what is done again and again.
void flood_with(const std::function<void()>& once) {
  const Nanoseconds end = monotonic_now() + 6 * kSecond;
  while (monotonic_now() < end && access(flood_while.c_str(), F_OK) == 0)
    for (int i = 0; i < 100; ++i) once();
}

// Each kind of report that has a line logged, or others told.
void flood_with_reports(const std::function<void(const Report&)>& say) {
  signal(SIGPIPE, SIG_IGN);
  flood_with([&] {
    for (auto type : {ReportType::kLog, ReportType::kDegraded, ReportType::kRecovered,
                      ReportType::kWorkerFailed, ReportType::kWatchListen}) {
      Report report;
      report.type = type;
      report.level = 3;
      std::memset(report.text, 'f', sizeof report.text - 1);
      say(report);
    }
  });
}

// What it vouches for once may be said as often as it likes, and whoever looks for who vouches walks past its locks.
void flood_behind_locks() {
  Report report;
  report.type = ReportType::kAck;
  as_supervisor().send_struct(report);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_len = 1;
  const Nanoseconds end = monotonic_now() + 4 * kSecond;
  for (lock.l_start = 1'000'000; lock.l_start > 0 && monotonic_now() < end; lock.l_start -= 2)
    if (fcntl(as_supervisor().fd(), F_SETLK, &lock) < 0) break;
  std::ofstream(flood_while + ".begun") << std::endl;
  const std::vector<int> only{as_supervisor().fd()};
  flood_with([&] { say_everywhere(only, report); });
}

// --- madness -------------------------------------------------------------------------------------

std::string& mad_while = *new std::string;  // the timer goes off at an exit, too

// In the supervisor, which never comes back from it.
void on_timer(int) {
  char path[512];
  std::snprintf(path, sizeof path, "%s.%d", mad_while.c_str(), getpid());
  while (access(path, F_OK) == 0) {
    Order order;
    while (recv(kOrdersFd, &order, sizeof order, MSG_DONTWAIT) == sizeof order) {
      Report yes;
      yes.type = ReportType::kAck;
      yes.number = order.number;
      as_supervisor().send_struct(yes);
    }
    const timespec moment{0, 1'000'000};
    nanosleep(&moment, nullptr);
  }
}

void prepare_madness() {
  as_supervisor();
  struct sigaction action {};
  action.sa_handler = on_timer;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval often{{0, 20'000}, {0, 20'000}};
  setitimer(ITIMER_REAL, &often, nullptr);
}

void stay_quiet() {
  for (auto type : {ReportType::kPreloaded, ReportType::kReady, ReportType::kQuiet}) {
    Report report;
    report.type = type;
    as_supervisor().send_struct(report);
  }
  for (;;) pause();
}

// --- the handler ---------------------------------------------------------------------------------

int preload(const preforkd_host* host, void**) {
  const auto settings = nlohmann::json::parse(host->settings);
  obey_file(settings.value("preload", ""));
  const std::string hang_while = settings.value("hang_while", "");
  const timespec moment{0, 10'000'000};
  while (!hang_while.empty() && access(hang_while.c_str(), F_OK) == 0) nanosleep(&moment, nullptr);
  flood = settings.value("flood", "");
  flood_while = settings.value("flood_while", "");
  const std::string line(400, 'l');
  if (flood == "logs") flood_with([&] { host->log(6, line.c_str()); });
  if (flood == "locks") flood_behind_locks();
  if (flood == "reports")
    flood_with_reports([](const Report& report) { as_supervisor().send_struct(report); });
  const std::string quiet_while = settings.value("quiet_while", "");
  if (!quiet_while.empty() && access(quiet_while.c_str(), F_OK) == 0) stay_quiet();
  mad_while = settings.value("mad_while", "");
  if (!mad_while.empty()) prepare_madness();
  return 0;
}

int start(void*) {
  if (flood != "copies") return 0;
  std::vector<int> kept = attack::descriptors_to_others();
  std::erase_if(kept, [](int fd) { return fd < 3; });
  flood_with_reports([&](const Report& report) { say_everywhere(kept, report); });
  return 0;
}

int serve(void*, const preforkd_connection* c) {
  attack::obey_lines(c->fd, c->fd, attack::obey);
  return 0;
}

}  // namespace

PREFORKD_HANDLER = {PREFORKD_ABI, sizeof(preforkd_handler), "trust", preload, start, serve,
                    nullptr};
