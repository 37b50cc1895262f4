#include "tests/sweep/tracer.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>

#include "base/clock.h"
#include "base/error.h"
#include "tests/sweep/errors.h"
#include "tests/sweep/stack.h"

namespace preforkd::sweep {
namespace {

constexpr Nanoseconds kDelay = 300 * kMillisecond, kToEnd = 20 * kSecond;
constexpr long kOptions =
    PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE;
constexpr long kFollow = kOptions | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;

struct Traced {
  std::shared_ptr<Image> image;
  pid_t process = 0;  // of which it is a thread
  int at_exit = 0;    // what the call that it is in is to return, negated; 0: what it does
  bool kill_at_exit = false;
  bool is_skipped = false;
};

pid_t process_of(pid_t tid) {
  char line[128];
  pid_t found = tid;
  FILE* status = std::fopen(("/proc/" + std::to_string(tid) + "/status").c_str(), "re");
  if (!status) return tid;
  while (std::fgets(line, sizeof line, status))
    if (std::sscanf(line, "Tgid: %d", &found) == 1) break;
  std::fclose(status);
  return found;
}

SiteId hash_of(const std::string& call, const std::vector<Frame>& frames) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  auto take = [&](const void* data, size_t size) {
    for (size_t i = 0; i < size; ++i)
      hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211u;
  };
  take(call.data(), call.size());
  for (const Frame& frame : frames) {
    take(frame.module.data(), frame.module.size());
    take(&frame.offset, sizeof frame.offset);
  }
  return hash;
}

class Tracing {
 public:
  Tracing(std::vector<Fault> faults, const std::vector<Site>& sites, Done& done)
      : faults_(std::move(faults)), done_(done), records_(faults_.empty()) {
    for (const Fault& fault : faults_)
      for (const Site& site : sites)
        if (site.id == fault.site) {
          wanted_.insert(find_call(site.call)->number);
          programs_.insert(site.program);
        }
    left_ = faults_.size();
  }

  void attach(pid_t pid) {
    daemon_ = pid;
    if (ptrace(PTRACE_SEIZE, pid, nullptr, kFollow) < 0) throw SysError("PTRACE_SEIZE", errno);
    if (ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) < 0)
      throw SysError("PTRACE_INTERRUPT", errno);
  }

  // Until nothing is left to follow.
  void run() {
    for (;;) {
      int status = 0;
      const pid_t tid = waitpid(-1, &status, __WALL | (delayed_.empty() ? 0 : WNOHANG));
      if (tid < 0 && errno == EINTR) continue;
      if (tid < 0) return;
      if (tid > 0) look_at(tid, status);
      end_delays(tid == 0);
    }
  }

  void write_record(const std::string& path) {
    Symbols symbols;
    for (const auto& [id, seen] : seen_) symbols.add(seen.path, seen.frames);
    symbols.resolve();
    std::vector<Site> sites;
    for (auto& [id, seen] : seen_) {
      seen.site.stack = symbols.text(seen.frames);
      sites.push_back(seen.site);
    }
    write_sites(path, sites);
    for (const auto& [number, count] : unknown_)
      std::fprintf(stderr, "sweep: errors.h does not know system call %ld (called %d times)\n",
                   number, count);
  }

 private:
  struct Seen {
    Site site;
    std::string path;
    std::vector<Frame> frames;
  };

  bool is_met(const std::string& program) const {
    return records_ || (left_ > 0 && programs_.contains(program));
  }

  void go_on(pid_t tid, int signal = 0) {
    const auto traced = traced_.find(tid);
    const bool stops =
        traced == traced_.end() || !traced->second.image || is_met(traced->second.image->program());
    ptrace(stops ? PTRACE_SYSCALL : PTRACE_CONT, tid, nullptr, signal);
  }

  void look_at(pid_t tid, int status) {
    if (!WIFSTOPPED(status)) {
      traced_.erase(tid);
      return;
    }
    Traced& traced = traced_[tid];
    if (!traced.process) traced.process = process_of(tid);
    const int signal = WSTOPSIG(status), event = status >> 16;
    if (signal == (SIGTRAP | 0x80)) return at_call(tid, traced);
    switch (event) {
      case PTRACE_EVENT_FORK:
      case PTRACE_EVENT_VFORK:
      case PTRACE_EVENT_CLONE: {
        unsigned long child = 0;
        ptrace(PTRACE_GETEVENTMSG, tid, nullptr, &child);
        traced_[static_cast<pid_t>(child)].image = traced.image;
        return go_on(tid);
      }
      case PTRACE_EVENT_EXEC:
        return at_exec(tid, traced);
      case PTRACE_EVENT_STOP:
        // A stop by a signal, that lasts; or one of ptrace's own.
        if (signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU) {
          ptrace(PTRACE_LISTEN, tid, nullptr, nullptr);
          return;
        }
        return go_on(tid);
      default:
        return go_on(tid, event == 0 && signal != SIGTRAP ? signal : 0);
    }
  }

  // What a supervisor forks are workers; what is none of ours, or will meet no fault, is nobody's concern.
  void at_exec(pid_t tid, Traced& traced) {
    traced.image = std::make_shared<Image>(tid);
    const std::string& program = traced.image->program();
    // (The daemon is whose children are followed.)
    if (!program.starts_with("preforkd") || (!is_met(program) && program != "preforkd")) {
      ptrace(PTRACE_DETACH, tid, nullptr, nullptr);
      traced_.erase(tid);
      return;
    }
    if (program != "preforkd") ptrace(PTRACE_SETOPTIONS, tid, nullptr, kOptions);
    go_on(tid);
  }

  void at_call(pid_t tid, Traced& traced) {
    __ptrace_syscall_info info{};
    if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) < 0) return go_on(tid);
    if (info.op == PTRACE_SYSCALL_INFO_EXIT) return at_exit(tid, traced);
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY || !traced.image) return go_on(tid);
    const uint64_t number = info.entry.nr;
    if (records_)
      note_site(tid, traced, number, info.entry);
    else if (left_ > 0 && wanted_.contains(static_cast<long>(number)) &&
             !do_fault(tid, traced, number, info.entry))
      return;
    go_on(tid);
  }

  template <class Entry>
  static const Call* call_of(pid_t tid, uint64_t number, const Entry& entry) {
    Words words;
    std::copy(std::begin(entry.args), std::end(entry.args), words);
    char first = 0;  // of "/path", "pipe:[1]", "socket:[2]", "anon_inode:[eventfd]"
    if (tells_files(number)) {
      const std::string link =
          "/proc/" + std::to_string(tid) + "/fd/" + std::to_string(static_cast<int>(words[0]));
      if (readlink(link.c_str(), &first, 1) != 1) first = 0;
    }
    return find_call(number, words, first == '/');
  }

  template <class Entry>
  void note_site(pid_t tid, Traced& traced, uint64_t number, const Entry& entry) {
    const Call* call = call_of(tid, number, entry);
    if (!call) {
      if (!why_not(number)) ++unknown_[static_cast<long>(number)];
      return;
    }
    const std::vector<Frame> frames = traced.image->frames(tid);
    if (frames.empty()) return;
    Seen& seen = seen_[hash_of(call->name, frames)];
    seen.site.is_daemon |= traced.process == daemon_;
    if (seen.site.count++ > 0) return;
    seen.site.id = hash_of(call->name, frames);
    seen.site.program = traced.image->program();
    seen.site.call = call->name;
    seen.site.is_early = !done_.is_ready;
    seen.path = traced.image->path();
    seen.frames = frames;
  }

  // False: it is not to go on.
  template <class Entry>
  bool do_fault(pid_t tid, Traced& traced, uint64_t number, const Entry& entry) {
    const Call* call = call_of(tid, number, entry);
    if (!call) return true;
    const std::vector<Frame> frames = traced.image->frames(tid);
    if (frames.empty()) return true;
    const SiteId id = hash_of(call->name, frames);
    for (size_t i = 0; i < faults_.size(); ++i) {
      if (faults_[i].site != id || done_.faults[i].pid != 0) continue;
      done_.faults[i].when = monotonic_now();
      done_.faults[i].pid = traced.process;
      --left_;
      switch (faults_[i].what) {
        case What::kError:
          traced.at_exit = faults_[i].error;
          traced.is_skipped = !call->is_done;
          if (!call->is_done)
            ptrace(PTRACE_POKEUSER, tid, offsetof(user_regs_struct, orig_rax), -1L);
          // Its way out is looked at, whatever else is still to be done.
          ptrace(PTRACE_SYSCALL, tid, nullptr, nullptr);
          return false;
        case What::kDelay:
          delayed_[tid] = monotonic_now() + kDelay;
          return false;
        case What::kKillBefore:
          kill(traced.process, SIGKILL);
          return true;
        case What::kKillAfter:
          traced.kill_at_exit = true;
          ptrace(PTRACE_SYSCALL, tid, nullptr, nullptr);
          return false;
      }
    }
    return true;
  }

  void at_exit(pid_t tid, Traced& traced) {
    if (traced.at_exit)
      ptrace(PTRACE_POKEUSER, tid, offsetof(user_regs_struct, rax),
             -static_cast<long>(traced.at_exit));
    if (traced.kill_at_exit) kill(traced.process, SIGKILL);
    traced.at_exit = 0;
    traced.kill_at_exit = false;
    go_on(tid);
  }

  void end_delays(bool may_wait) {
    const Nanoseconds now = monotonic_now();
    for (auto it = delayed_.begin(); it != delayed_.end();) {
      if (it->second > now) {
        ++it;
        continue;
      }
      go_on(it->first);
      it = delayed_.erase(it);
    }
    const timespec pause = to_timespec(kMillisecond);
    if (may_wait && !delayed_.empty()) nanosleep(&pause, nullptr);
  }

  const std::vector<Fault> faults_;
  Done& done_;
  const bool records_;
  size_t left_ = 0;
  pid_t daemon_ = 0;
  std::set<long> wanted_;
  std::set<std::string> programs_;
  std::map<pid_t, Traced> traced_;
  std::map<pid_t, Nanoseconds> delayed_;
  std::map<SiteId, Seen> seen_;
  std::map<long, int> unknown_;
};

UniqueFd make_pipe(UniqueFd& write) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) throw SysError("pipe", errno);
  write.reset(ends[1]);
  return UniqueFd(ends[0]);
}

}  // namespace

Tracer::Tracer(std::vector<Fault> faults, std::vector<Site> sites, std::string record_to) {
  if (faults.size() > kMostFaults) throw std::runtime_error("too many faults for one run");
  void* memory =
      mmap(nullptr, sizeof(Done), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw SysError("mmap", errno);
  done_ = new (memory) Done;
  ask_read_ = make_pipe(ask_write_);
  go_read_ = make_pipe(go_write_);
  pid_ = fork();
  if (pid_ < 0) throw SysError("fork", errno);
  if (pid_ == 0) run(std::move(faults), std::move(sites), record_to);
  ask_read_.reset();
  go_write_.reset();
}

Tracer::~Tracer() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  munmap(done_, sizeof(Done));
}

void Tracer::wait() {
  const Nanoseconds deadline = monotonic_now() + kToEnd;
  while (pid_ > 0 && monotonic_now() < deadline) {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return;
    }
    const timespec pause = to_timespec(5 * kMillisecond);
    nanosleep(&pause, nullptr);
  }
}

void Tracer::attach_to_me() const {
  const pid_t me = getpid();
  char go = 0;
  if (write(ask_write_.get(), &me, sizeof me) != sizeof me || read(go_read_.get(), &go, 1) != 1)
    _exit(127);
}

void Tracer::run(std::vector<Fault> faults, std::vector<Site> sites, const std::string& record_to) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  try {
    ask_write_.reset();
    go_read_.reset();
    Tracing tracing(std::move(faults), sites, *done_);
    pid_t pid = 0;
    if (read(ask_read_.get(), &pid, sizeof pid) != sizeof pid) _exit(0);
    tracing.attach(pid);
    if (write(go_write_.get(), "", 1) != 1) _exit(1);
    tracing.run();
    if (!record_to.empty()) tracing.write_record(record_to);
    _exit(0);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sweep: tracer: %s\n", e.what());
    _exit(1);
  }
}

}  // namespace preforkd::sweep
