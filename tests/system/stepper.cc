#include "tests/system/stepper.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <sstream>
#include <string>

#include "base/error.h"
#include "tests/system/client.h"
#include "tests/system/process.h"

namespace preforkd::system_test {
namespace {

constexpr time_t kLongest = 10;  // seconds that one traced worker may take

void do_nothing(int) {}

// Ends a waitpid() that takes too long: a process that blocks makes no further step.
void set_alarm(time_t seconds) {
  struct sigaction action {};
  action.sa_handler = do_nothing;  // without SA_RESTART
  sigaction(SIGALRM, &action, nullptr);
  itimerval timer{{1, 0}, {seconds, 0}};
  if (seconds == 0) timer.it_interval.tv_sec = 0;
  setitimer(ITIMER_REAL, &timer, nullptr);
}

cpu_set_t one_processor() {
  cpu_set_t set{};
  CPU_SET(sched_getcpu(), &set);
  return set;
}

cpu_set_t processors_of(pid_t pid) {
  cpu_set_t set{};
  sched_getaffinity(pid, sizeof set, &set);
  return set;
}

// Where sem_trywait lies in libc, as an offset, and how long it is: the same in every process.
struct Function {
  std::string library;
  uint64_t offset = 0, size = 0;
};
Function taking_a_ticket() {
  Function found;
  Dl_info info{};
  void* symbol = nullptr;
  auto* address = reinterpret_cast<void*>(&sem_trywait);
  if (dladdr1(address, &info, &symbol, RTLD_DL_SYMENT) == 0 || !symbol) return found;
  found.library = info.dli_fname;
  found.library.erase(0, found.library.rfind('/') + 1);
  found.offset = reinterpret_cast<uint64_t>(address) - reinterpret_cast<uint64_t>(info.dli_fbase);
  found.size = static_cast<const ElfW(Sym)*>(symbol)->st_size;
  return found;
}

}  // namespace

Stepper::Stepper(pid_t pid) : pid_(pid), own_processors_(processors_of(0)) {
  set_alarm(kLongest);
  memory_.reset(open(("/proc/" + std::to_string(pid) + "/mem").c_str(), O_RDONLY | O_CLOEXEC));
  if (!memory_.is_open()) throw SysError("open memory of " + std::to_string(pid), errno);
  learn_mappings();
  // Its supervisor writes the pid when it is back from fork(): a worker may be idle before that.
  wait_until("worker " + std::to_string(pid) + " has a slot", kPatience,
             [this] { return find_slot(); });
  if (ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) < 0) throw SysError("PTRACE_SEIZE", errno);
  if (ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) < 0)
    throw SysError("PTRACE_INTERRUPT", errno);
  wait_for_stop();
  run_on(one_processor());
}

Stepper::~Stepper() {
  run_on(own_processors_);
  set_alarm(0);
  if (!ended_) ptrace(PTRACE_DETACH, pid_, nullptr, signal_);
}

// Tracer and traced take turns: on one processor each turn costs a switch, and no interrupt to another.
void Stepper::run_on(const cpu_set_t& processors) {
  sched_setaffinity(0, sizeof processors, &processors);
  if (!ended_) sched_setaffinity(pid_, sizeof processors, &processors);
}

// --- where things are ----------------------------------------------------------------------------

void Stepper::learn_mappings() {
  static const Function ticket = taking_a_ticket();
  std::istringstream lines(file_text("/proc/" + std::to_string(pid_) + "/maps"));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    Range range{};
    char dash = 0;
    uint64_t offset = 0, inode = 0;
    std::string rights, device, path;
    fields >> std::hex >> range.from >> dash >> range.to >> rights >> offset >> device >>
        std::dec >> inode >> path;
    if (path.starts_with("/memfd:preforkd-segment") && rights == "rw-s") segment_ = range.from;
    if (offset == 0 && !ticket.library.empty() && path.ends_with("/" + ticket.library)) {
      const uint64_t from = range.from + ticket.offset;
      ours_.push_back({from, from + ticket.size});
    }
    if (rights[2] != 'x') continue;
    const bool handler = path.find("/handlers/") != path.npos;
    if (handler) handler_.push_back(range);
    if (handler || path.ends_with("/preforkd-supervisor")) ours_.push_back(range);
  }
  if (segment_ == 0 || handler_.empty() || ours_.size() < 2)
    throw Failure("what is mapped into worker " + std::to_string(pid_) + " looks unusual");
}

bool Stepper::find_slot() {
  uint32_t capacity = 0, words = 0;
  read(segment_ + offsetof(shm::Segment, header.capacity), &capacity, sizeof capacity);
  read(segment_ + offsetof(shm::Segment, published.scan_words), &words, sizeof words);
  for (uint32_t i = 0; i < words * shm::kSlotsPerWord; ++i) {
    slot_ = segment_ + shm::slots_offset(capacity) + i * sizeof(shm::Slot);
    if (static_cast<pid_t>(slot_word(offsetof(shm::Slot, pid)) & 0xffffffff) == pid_) return true;
  }
  return false;
}

void Stepper::read(uint64_t address, void* into, size_t size) {
  if (pread(memory_.get(), into, size, static_cast<off_t>(address)) != static_cast<ssize_t>(size))
    throw SysError("read memory of " + std::to_string(pid_), errno);
}

uint64_t Stepper::slot_word(size_t offset) {
  uint64_t word = 0;
  read(slot_ + offset, &word, sizeof word);
  return word;
}

// --- steps ---------------------------------------------------------------------------------------

bool Stepper::in(const std::vector<Range>& ranges, uint64_t address) {
  for (const Range& range : ranges)
    if (range.from <= address && address < range.to) return true;
  return false;
}

long Stepper::register_of(size_t offset) {
  errno = 0;
  long value = ptrace(PTRACE_PEEKUSER, pid_, offset, nullptr);
  if (errno != 0) throw SysError("PTRACE_PEEKUSER", errno);
  return value;
}

bool Stepper::wait_for_stop() {
  if (waitpid(pid_, &status_, __WALL) < 0)
    throw Failure("worker " + std::to_string(pid_) + " makes no further step");
  ended_ = !WIFSTOPPED(status_);
  if (ended_) return false;
  // A signal that is not ptrace's own is delivered with the next step.
  signal_ = WSTOPSIG(status_) == SIGTRAP ? 0 : WSTOPSIG(status_);
  address_ = static_cast<uint64_t>(register_of(offsetof(user_regs_struct, rip)));
  return true;
}

bool Stepper::step() {
  was_system_call_ = is_system_call(address_) && signal_ == 0;
  if (was_system_call_) called_ = register_of(offsetof(user_regs_struct, rax));
  if (ptrace(PTRACE_SINGLESTEP, pid_, nullptr, signal_) < 0)
    throw SysError("PTRACE_SINGLESTEP", errno);
  return wait_for_stop();
}

bool Stepper::is_system_call(uint64_t address) {
  auto [known, is_new] = system_calls_.try_emplace(address, false);
  if (is_new) {
    unsigned char code[2] = {};
    // (The vsyscall page cannot be read, and has none.)
    if (pread(memory_.get(), code, sizeof code, static_cast<off_t>(address)) == sizeof code)
      known->second = code[0] == 0x0f && code[1] == 0x05;
  }
  return known->second;
}

bool Stepper::is_point() {
  return was_system_call_ || in(ours_, address_) || is_system_call(address_);
}

bool Stepper::next_point() {
  do {
    if (!step()) return false;
  } while (!is_point());
  return true;
}

bool Stepper::is_at_wait() {
  return is_system_call(address_) &&
         register_of(offsetof(user_regs_struct, rax)) == SYS_epoll_pwait;
}

bool Stepper::run_to_wait() {
  while (!is_at_wait())
    if (!step()) return false;
  return true;
}

bool Stepper::returned_from(long number, long& result) {
  if (!was_system_call_ || called_ != number) return false;
  result = register_of(offsetof(user_regs_struct, rax));
  return true;
}

void Stepper::kill() {
  if (ended_) return;
  ::kill(pid_, SIGKILL);
  while (!ended_) wait_for_stop();
}

}  // namespace preforkd::system_test
