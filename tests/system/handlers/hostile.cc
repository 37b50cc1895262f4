// hostile: a handler that attacks whatever it can reach. Each line of a client is an order, and is answered
// by a line:
//
//   p                  its pid
//   w OFFSET SIZE HEX  writes 4 or 8 bytes into the segment, and rings the doorbell
//   h OFFSET HEX MS    holds 4 bytes of the segment at that value, for so long; does not ring
//   r SEED ROUNDS FROM random bytes over all of the segment from there on; ringing, now and then
//   f MILLISECONDS     rings the doorbell, the watch and the tick without end
//   t PID...           truncates each segment that it can open through /proc of itself and of those;
//                      answers how many it could
//   e                  has the kernel empty the segment's pages
//   k PID SIGNAL       sends a signal; answers errno
//   c PID MILLISECONDS stops and continues a process, again and again
//   q                  says in its slot that it leaves as it should, and does
//   s                  says to the daemon, by the copy that preload made of its supervisor's pipe, that nobody
//                      accepts any more, as often as it takes that; answers how often
//
// Settings: leave_while: a path: while it exists, every worker does what `q` does as soon as it starts;
// crash_while: the same, but it says that it is idle and has served a connection, and aborts; spend_while: the same,
// but it leaves as if it had served its connections; term_while: the same, and it sends its
// supervisor a TERM.
// The segment is what it finds in its own /proc/self/maps.
#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <preforkd/handler.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>

#include "base/clock.h"
#include "ipc/message_pipe.h"
#include "ipc/supervisor_messages.h"
#include "shm/layout.h"

namespace {

using preforkd::monotonic_now;
namespace shm = preforkd::shm;

constexpr int kReports = 4;  // a supervisor's (ipc/supervisor_args.h)
constexpr int kCopyOfReports = 50;

struct Memory {
  char* base = nullptr;
  size_t size = 0;
};

Memory find_memory() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long from = 0, to = 0;
    if (line.find("/memfd:preforkd-segment") == line.npos) continue;
    if (std::sscanf(line.c_str(), "%lx-%lx rw-s", &from, &to) == 2)
      return {reinterpret_cast<char*>(from), to - from};
  }
  return {};
}

shm::Segment& segment(const Memory& memory) {
  return *reinterpret_cast<shm::Segment*>(memory.base);
}

void wake(shm::Word& word) { syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

void ring(const Memory& memory) {
  segment(memory).doorbell.ring.fetch_add(1);
  wake(segment(memory).doorbell.ring);
}

void write_word(const Memory& memory, size_t offset, size_t size, uint64_t value) {
  if (offset + sizeof value > memory.size) return;
  std::memcpy(memory.base + offset, &value, size == 4 ? 4 : 8);
  ring(memory);
}

void hold_word(const Memory& memory, size_t offset, uint64_t value, uint64_t milliseconds) {
  if (offset + sizeof(shm::Word) > memory.size) return;
  auto& word = *reinterpret_cast<shm::Word*>(memory.base + offset);
  const auto end = monotonic_now() + milliseconds * preforkd::kMillisecond;
  while (monotonic_now() < end) word.store(static_cast<uint32_t>(value));
}

void scribble(const Memory& memory, uint64_t seed, uint64_t rounds, size_t from) {
  std::mt19937_64 random(seed);
  for (uint64_t round = 0; round < rounds; ++round) {
    auto* words = reinterpret_cast<uint64_t*>(memory.base);
    for (size_t i = from / sizeof *words; i < memory.size / sizeof *words; ++i) {
      // All of it at times; what is read most, and small numbers, more often than that.
      const uint64_t dice = random();
      if (round % 2 && i > sizeof(shm::Segment) / sizeof *words + 4096 && dice % 8) continue;
      words[i] = dice % 3 == 0 ? random() : dice % 3 == 1 ? random() % 8 : ~uint64_t{0};
      if (i % 65536 == 0) ring(memory);
    }
    ring(memory);
  }
}

void flood(const Memory& memory, uint64_t milliseconds) {
  shm::Segment& s = segment(memory);
  const auto end = monotonic_now() + milliseconds * preforkd::kMillisecond;
  for (uint32_t i = 0; monotonic_now() < end; ++i) {
    s.doorbell.ring.fetch_add(1);
    wake(s.doorbell.ring);
    s.shared.watch.store(i & 1);
    s.shared.tick.store(i);
    wake(s.shared.tick);
    s.gone.edition.fetch_add(i);
    s.published.scan_words.store(i & 15);
  }
}

// Through links of /proc that lead to a segment: nothing else may come to harm by a test.
int truncate_through(const std::string& folder) {
  int done = 0;
  DIR* entries = opendir(folder.c_str());
  if (!entries) return 0;
  while (const dirent* entry = readdir(entries)) {
    const std::string path = folder + "/" + entry->d_name;
    char target[256] = "";
    if (readlink(path.c_str(), target, sizeof target - 1) < 0) continue;
    if (!std::strstr(target, "/memfd:preforkd-segment")) continue;
    int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, 0) == 0) ++done;
    if (fd >= 0) close(fd);
    if (truncate(path.c_str(), 0) == 0) ++done;
  }
  closedir(entries);
  return done;
}

int stop_and_continue(pid_t pid, uint64_t milliseconds) {
  const auto end = monotonic_now() + milliseconds * preforkd::kMillisecond;
  while (monotonic_now() < end)
    if (kill(pid, SIGSTOP) != 0 || kill(pid, SIGCONT) != 0) return errno;
  return 0;
}

// Its supervisor may not have noted the pid yet.
shm::Slot& slot_of_this(const Memory& memory) {
  auto* slots = reinterpret_cast<shm::Slot*>(memory.base + shm::slots_offset(shm::kMinCapacity));
  const auto end = monotonic_now() + preforkd::kSecond;
  for (;; sched_yield())
    for (uint32_t i = 0; i < shm::kMinCapacity; ++i)
      if (slots[i].pid.load() == static_cast<uint32_t>(getpid()) || monotonic_now() > end)
        return slots[i];
}

void claim_a_connection(shm::Slot& slot) {
  slot.state.store(static_cast<uint32_t>(preforkd::WorkerState::kIdle));
  slot.begun.store(1);
  slot.served.store(1);
}

// As a worker that was surplus would look.
[[noreturn]] void leave_quietly(const Memory& memory) {
  shm::Slot& slot = slot_of_this(memory);
  slot.served.store(slot.begun.load());
  slot.state.store(static_cast<uint32_t>(preforkd::WorkerState::kRetiring));
  _exit(0);
}

std::string obey(const Memory& memory, const std::string& line) {
  std::istringstream words(line);
  std::string order;
  uint64_t a = 0, b = 0;
  words >> order;
  if (order == "p") return std::to_string(getpid());
  if (order == "w") {
    uint64_t value = 0;
    words >> a >> b >> std::hex >> value;
    write_word(memory, a, b, value);
  } else if (order == "h") {
    uint64_t value = 0, milliseconds = 0;
    words >> a >> std::hex >> value >> std::dec >> milliseconds;
    hold_word(memory, a, value, milliseconds);
  } else if (order == "r") {
    size_t from = 0;
    words >> a >> b >> from;
    scribble(memory, a, b, from);
  } else if (order == "f") {
    words >> a;
    flood(memory, a);
  } else if (order == "t") {
    int done = truncate_through("/proc/self/fd") + truncate_through("/proc/self/map_files");
    for (pid_t pid = 0; words >> pid;)
      for (const char* folder : {"/fd", "/map_files"})
        done += truncate_through("/proc/" + std::to_string(pid) + folder);
    return std::to_string(done);
  } else if (order == "e") {
    madvise(memory.base, memory.size, MADV_REMOVE);
    ring(memory);
  } else if (order == "k") {
    words >> a >> b;
    return std::to_string(kill(static_cast<pid_t>(a), static_cast<int>(b)) == 0 ? 0 : errno);
  } else if (order == "c") {
    words >> a >> b;
    return std::to_string(stop_and_continue(static_cast<pid_t>(a), b));
  } else if (order == "s") {
    preforkd::Report report;
    report.type = preforkd::ReportType::kQuiet;
    preforkd::Outbox copy{preforkd::UniqueFd(dup(kCopyOfReports))};
    while (a < 100'000 && copy.send_struct(report) == preforkd::Outbox::Sent::kYes) ++a;
    return std::to_string(a);
  } else if (order == "q") {
    leave_quietly(memory);
  }
  return "done";
}

int serve(void*, const preforkd_connection* c) {
  const Memory memory = find_memory();
  std::string line;
  for (char next; recv(c->fd, &next, 1, 0) == 1;) {
    if (next != '\n') {
      line += next;
      continue;
    }
    std::string answer = memory.base ? obey(memory, line) + "\n" : "no segment\n";
    if (send(c->fd, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) return 1;
    line.clear();
  }
  return 0;
}

struct Settings {
  std::string leave_while, crash_while, spend_while, term_while;
};

int preload(const preforkd_host* host, void** state) {
  auto json = nlohmann::json::parse(host->settings);
  *state = new Settings{json.value("leave_while", ""), json.value("crash_while", ""),
                        json.value("spend_while", ""), json.value("term_while", "")};
  dup2(kReports, kCopyOfReports);
  return 0;
}

int start(void* state) {
  const auto& settings = *static_cast<const Settings*>(state);
  if (access(settings.leave_while.c_str(), F_OK) == 0) leave_quietly(find_memory());
  if (access(settings.crash_while.c_str(), F_OK) == 0) {
    claim_a_connection(slot_of_this(find_memory()));
    abort();
  }
  if (access(settings.spend_while.c_str(), F_OK) == 0) {
    const Memory memory = find_memory();
    claim_a_connection(slot_of_this(memory));
    leave_quietly(memory);
  }
  if (access(settings.term_while.c_str(), F_OK) == 0) kill(getppid(), SIGTERM);
  return 0;
}

}  // namespace

PREFORKD_HANDLER = {PREFORKD_ABI, sizeof(preforkd_handler), "hostile", preload, start, serve,
                    nullptr};
