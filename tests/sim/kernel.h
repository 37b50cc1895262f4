// The kernel of the simulation: a clock that stands still while anything runs, processes as fibers of one thread, and as much
// of Linux as preforkd's processes ask for: fork, wait, kill, signals, futexes, epoll, accept queues. All that is left to chance
// (who runs first, when one loses the processor, how long a fork takes) is drawn from one seed: the same seed, the same course.
//
// A process runs until it makes a system call; at each it may lose the processor, meet a signal, or be killed. In between
// nobody else runs: what processes do to shared memory between two system calls is one step here. (What may come between
// two instructions is for the models, tests/model, and for `instructions` of the system tests.)
#pragma once

#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <ucontext.h>
#include <csetjmp>

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "tests/sim/random.h"

namespace preforkd::sim {

class Kernel;
struct Epoll;
struct Process;

inline constexpr int kFirstFd =
    1 << 20;  // descriptors from here on are the simulation's, and all processes' alike
inline constexpr bool is_simulated(int fd) { return fd >= kFirstFd; }

// --- files ---------------------------------------------------------------------------------------

struct File;
struct Registration {
  File* file;
  Epoll* epoll;
  epoll_event event;
  bool is_exclusive = false, is_ready = false;
};
struct File {
  virtual ~File() = default;
  virtual bool is_readable() const { return false; }
  virtual void closed() {}

  int fd = -1;
  pid_t owner = 0;  // whose close() counts, and with whose death it is closed; 0: nobody's
  std::vector<Registration*> watchers;  // those that are not exclusive come first
};
struct Epoll final : File {
  std::vector<std::unique_ptr<Registration>> registrations;
  std::deque<Registration*> ready;
  Process* waiter = nullptr;  // who takes a wake-up leaves with it
};
// One end of a way for messages.
struct MessageEnd final : File {
  struct Message {
    std::string bytes;
    pid_t sender;
  };
  static constexpr size_t kRoom = 64;

  bool is_readable() const override { return !messages.empty() || !peer; }
  void closed() override;

  MessageEnd* peer = nullptr;    // null: closed
  std::deque<Message> messages;  // to be received here
  bool raises_sigio = false;     // in its owner, when one comes
  pid_t last_sender = 0;         // of what was received last
};
struct Connection;
struct ListenSocket final : File {
  bool is_readable() const override { return !queue.empty(); }

  std::deque<Connection*> queue;
  bool door_is_closed = false, has_given_up = false;
};
// Readable while its process has such a signal pending.
struct SignalFile final : File {
  bool is_readable() const override;

  Process* process = nullptr;
};

// --- processes -----------------------------------------------------------------------------------

constexpr Nanoseconds kWakeLeast = 3 * kMicrosecond;  // how long a wake-up takes, at least
enum class Woken { kEvent, kTimeout, kSignal };
enum class Kind { kDaemon, kSupervisor, kWorker };

struct Process {
  struct Action {
    void (*handler)(int) = SIG_DFL;
    bool blocks_itself = true;
  };

  pid_t pid = 0, session = 0;
  Process* parent = nullptr;
  Kind kind = Kind::kDaemon;
  void* world = nullptr;  // what it belongs to, for who observes
  std::vector<Process*> children;
  bool is_subreaper = false;
  int death_signal = 0;

  uint64_t pending = 0, blocked = 0;  // signals
  std::array<Action, 65> actions{};
  SignalFile* signal_file = nullptr;  // if it has one

  bool is_dead = false, is_stopped = false;
  int status = 0;  // of waitpid, once it is dead
  int news = -1;   // stopped, or goes on: the same; -1: nothing new
  Nanoseconds processor_time = 0;
  uint32_t dies_in = 0;                          // system calls; 0: it does not
  bool was_killed = false, was_stopped = false;  // by the scenario
  bool may_leave = false;                        // it was told to by the scenario, or by its client
  std::vector<int> given_up;                     // listen sockets that it has closed for itself

  // Of the scheduler.
  std::function<void()> body;
  char* stack = nullptr;
  jmp_buf context;
  ucontext_t beginning;
  bool has_begun = false;
  uint32_t turn = 0;  // an event for another one is void
  bool is_waiting = false, is_interruptible = false, is_due = false;  // due, but stopped
  Woken woken = Woken::kEvent;
  const void* waits_on = nullptr;  // a word of memory
  Epoll* waits_in = nullptr;
  // What a real process has for itself: saved while another one runs.
  int error = 0;
  std::array<char, 16> exceptions{};
  std::vector<char> globals;
};

// Memory of preforkd's that each process has for itself: saved and put back when another one runs.
struct PrivateMemory {
  void* at;
  size_t size;
};

// Who wants to know.
class Observer {
 public:
  virtual void on_fork(Process&) = 0;
  virtual void on_death(Process&) = 0;
  virtual void on_accept(Process&) = 0;
  virtual void on_epoll_wait(Process&, bool begins) = 0;
  virtual void on_close(Connection&) = 0;

 protected:
  ~Observer() = default;
};

struct Connection final : File {
  enum class Kind { kServe, kFail, kCrash, kExit, kHang, kHangOn };
  Kind kind = Kind::kServe;
  uint64_t number = 0;
  Nanoseconds service = 0;
  Nanoseconds accepted_at = 0;
  pid_t worker = 0;
  bool is_answered = false;
};

class Kernel {
 public:
  Kernel(uint64_t seed, std::vector<PrivateMemory> private_memory);
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  Nanoseconds now() const { return now_; }
  Random& random() { return random_; }
  Process* current() { return current_; }
  void observe(Observer* observer) { observer_ = observer; }

  // Runs in nobody's process.
  void at(Nanoseconds when, std::function<void()> event);
  void after(Nanoseconds delay, std::function<void()> event) { at(now_ + delay, std::move(event)); }
  void run(const std::function<bool()>& is_over);

  // --- processes: called by the one that runs, or by an event ---
  Process& spawn(Process* parent, Kind kind, std::function<void()> body);
  pid_t fork(std::function<void()> child);  // -1: fork_error
  [[noreturn]] void exit(int status);
  bool send_signal(pid_t to, int number);
  pid_t wait(pid_t which, int options, int* status, rusage* usage);
  pid_t peek(pid_t which, int options, int* status);  // without reaping
  Process* find(pid_t pid);                           // zombies, too
  const std::map<pid_t, std::unique_ptr<Process>>& processes() const { return processes_; }
  void deliver_signals();
  void step();  // at the beginning of each system call
  Woken sleep(Nanoseconds until, bool is_interruptible);
  void lose_processor(Nanoseconds for_how_long);
  uint64_t set_blocked(uint64_t blocked);
  void notify_signal_file(Process& process);

  // Until then forks fail with this.
  void fail_forks(int error, Nanoseconds until) { fork_error_ = error, forks_fail_until_ = until; }
  bool forks_fail() const { return now_ < forks_fail_until_; }
  uint64_t forks_tried() const { return forks_tried_; }

  // --- futexes ---
  Woken wait_on(const void* word, Nanoseconds until);
  int wake(const void* word, int most);

  // --- files ---
  template <class T>
  T& open(std::unique_ptr<T> file, pid_t owner) {
    T& opened = *file;
    add(std::move(file), owner);
    return opened;
  }
  template <class T>
  T* file(int fd) const {
    return dynamic_cast<T*>(raw_file(fd));
  }
  File* raw_file(int fd) const;
  void close(int fd);       // by the current process, or by an event
  void notify(File& file);  // it is readable
  int epoll_ctl(int epoll, int operation, int fd, const epoll_event* event);
  int epoll_wait(int epoll, epoll_event* events, int most, Nanoseconds until,
                 const uint64_t* blocked);
  void arrive(ListenSocket& socket, Connection& connection);
  int accept(int listen_socket);  // or -errno

 private:
  struct Event {
    Nanoseconds when;
    uint64_t number;
    pid_t pid;  // 0: it is an action
    uint32_t turn;
    Woken woken;
    uint32_t action;
    bool operator>(const Event& other) const {
      return when != other.when ? when > other.when : number > other.number;
    }
  };
  static void begin_fiber();
  void resume(Process& process);
  void leave_fiber();
  void push(Nanoseconds when, Process& process, Woken woken);
  void wake_up(Process& process, Woken woken);
  void make_due(Process& process, Woken woken);
  void die(Process& process, int status);
  void tell_parent(Process& process);
  void reap(Process& process);
  void forget_watchers(File& file);
  void drop_from_waiters(Process& process);
  void add(std::unique_ptr<File> file, pid_t owner);
  void release(int fd);
  void take_from_ready(Registration& registration);
  int collect(Epoll& epoll, epoll_event* events, int most);
  Process* reaper_of(Process& process);
  char* new_stack();

  Nanoseconds now_ = kSecond;  // (0 has a meaning of its own in many places)
  Random random_;
  const std::vector<PrivateMemory> private_memory_;
  Observer* observer_ = nullptr;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  uint64_t next_event_ = 0;
  std::vector<std::function<void()>> actions_;
  std::vector<uint32_t> free_actions_;
  std::map<pid_t, std::unique_ptr<Process>> processes_;
  pid_t next_pid_ = 100;
  Process* current_ = nullptr;
  jmp_buf scheduler_;
  std::vector<char*> free_stacks_, all_stacks_;
  char* stack_to_free_ = nullptr;
  int fork_error_ = 0;
  Nanoseconds forks_fail_until_ = 0;
  uint64_t forks_tried_ = 0;
  std::map<const void*, std::vector<Process*>> waiters_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<int> free_fds_;
};

// The one of this run; null: system calls are the real kernel's.
extern Kernel* kernel;

}  // namespace preforkd::sim
