// worker/closing and supervisor/lingering: connections that are over, handed to who reads on; its bounds; programs that have
// ended; and what a hostile worker may send it.
#include "worker/closing.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>
#include <memory>
#include <vector>

#include "supervisor/lingering.h"
#include "tests/unit/unit_test.h"
#include "worker/signals.h"

using namespace preforkd;

namespace {

// A connection: the server's end, and its client's.
struct Pair {
  UniqueFd server, client;

  Pair() {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
      throw SysError("socketpair", errno);
    server.reset(ends[0]);
    client.reset(ends[1]);
  }
  bool sends(const char* bytes = "unread") const {
    return send(client.get(), bytes, strlen(bytes), MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
  }
  bool sees_end() const {
    pollfd readable{client.get(), POLLIN, 0};
    char byte;
    return poll(&readable, 1, static_cast<int>(unit::kPatience / kMillisecond)) == 1 &&
           recv(client.get(), &byte, 1, MSG_DONTWAIT) == 0;
  }
  bool has_seen_nothing() const {
    char byte;
    return recv(client.get(), &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
  }
  bool hangs_up() const {
    pollfd hung_up{client.get(), 0, 0};
    return poll(&hung_up, 1, 1) == 1 && (hung_up.revents & POLLHUP);
  }
  bool is_closed() const { return !sends("x") && (errno == EPIPE || errno == ECONNRESET); }
};

// A closer, whose supervisor this is.
class Closed {
 public:
  explicit Closed(const LingeringBounds& bounds = {}) : process_(start(pairs_, bounds)) {}
  Closing closing() const { return Closing(first(), second()); }
  int first() const { return pairs_.first.workers.get(); }
  int second() const { return pairs_.second.workers.get(); }
  void end(Pair& connection) const {
    closing().end(connection.server.get());
    connection.server.reset();
  }
  void hang_up() {
    pairs_.first.workers.reset();
    pairs_.second.workers.reset();
  }
  // As the supervisor would.
  void start_another() { process_ = start(pairs_, {}); }
  unit::Child& process() { return *process_; }
  // It is through its start, in which it looks at what was lent before: it answers, that this one is no program.
  bool runs() const {
    return unit::eventually(
        [&] { return closing().client_ended_before(getpid(), [] {}).has_value(); });
  }

 private:
  static std::unique_ptr<unit::Child> start(const ClosingPairs& pairs,
                                            const LingeringBounds& bounds) {
    const AllSignalsBlocked as_the_closer_has_them;
    const pid_t supervisor = getpid();
    return std::make_unique<unit::Child>([&] {
      close(pairs.first.workers.get());
      close(pairs.second.workers.get());
      Lingering(pairs.first.closers.get(), pairs.second.closers.get(), supervisor, bounds).run();
      return true;
    });
  }

  ClosingPairs pairs_{true};
  std::unique_ptr<unit::Child> process_;
};

bool has_message(const ClosingPairs& pairs) {
  pollfd waiting{pairs.first.closers.get(), POLLIN, 0};
  return poll(&waiting, 1, 0) == 1;
}

void who_ends_first_needs_no_closer() {
  const ClosingPairs pairs(false);
  Pair read, unread, gone, open;
  shutdown(read.client.get(), SHUT_WR);
  CU_ASSERT(unread.sends());
  shutdown(unread.client.get(), SHUT_WR);
  gone.client.reset();
  const Closing closing(pairs.first.workers.get());
  for (const Pair* each : {&read, &unread, &gone}) closing.end(each->server.get());
  CU_ASSERT(!has_message(pairs));
  closing.end(open.server.get());
  CU_ASSERT(has_message(pairs));
  CU_ASSERT(open.sees_end());
}

void without_a_closer() {
  Pair connection;
  CU_ASSERT(connection.sends());
  Closing().end(connection.server.get());
  connection.server.reset();
  CU_ASSERT(connection.sees_end());  // and no ECONNRESET, for what was unread

  // The pair is full, and then nobody has its other end.
  ClosingPairs pairs(false);
  const Closing closing(pairs.first.workers.get());
  for (int i = 0; i < 5000; ++i) {
    Pair each;
    closing.end(each.server.get());
  }
  pairs.first.closers.reset();
  Pair last;
  CU_ASSERT(last.sends());
  closing.end(last.server.get());
  last.server.reset();
  CU_ASSERT(last.sees_end());
}

void reads_on() {
  Closed closed;
  Pair connection;
  CU_ASSERT(connection.sends());
  CU_ASSERT_EQUAL(send(connection.server.get(), "answer", 6, 0), 6);
  closed.end(connection);
  // More than the socket has room for: somebody reads.
  std::string body(4096, 'b');
  for (int i = 0; i < 1000; ++i)
    CU_ASSERT_EQUAL_FATAL(send(connection.client.get(), body.data(), body.size(), MSG_NOSIGNAL),
                          static_cast<ssize_t>(body.size()));
  char answer[8];
  CU_ASSERT_EQUAL(recv(connection.client.get(), answer, sizeof answer, 0), 6);
  CU_ASSERT(connection.sees_end());
  CU_ASSERT(!connection.is_closed());
  closed.hang_up();
  connection.client.reset();
  CU_ASSERT(closed.process().succeeded());
}

void bounds() {
  {
    Closed closed({.silence = 40 * kMillisecond, .look_each = 10 * kMillisecond});
    Pair silent;
    closed.end(silent);
    CU_ASSERT(unit::eventually([&] { return silent.hangs_up(); }));
  }
  {
    Closed closed({.in_all = 100 * kMillisecond, .look_each = 10 * kMillisecond});
    Pair talks;
    closed.end(talks);
    CU_ASSERT(unit::eventually([&] { return talks.is_closed(); }));
  }
  {
    constexpr uint64_t kBytes = 1 << 20;
    Closed closed({.bytes = kBytes});
    Pair sends;
    closed.end(sends);
    const std::string body(4096, 'b');
    uint64_t sent = 0;
    for (ssize_t more;
         (more = send(sends.client.get(), body.data(), body.size(), MSG_NOSIGNAL)) > 0;)
      sent += static_cast<uint64_t>(more);
    CU_ASSERT(sent >= kBytes && sent < 2 * kBytes);
  }
}

// While it stands still, in a machine that is paused, nobody is silent.
void a_standstill() {
  Closed closed({.silence = 500 * kMillisecond, .look_each = 50 * kMillisecond});
  Pair connection;
  CU_ASSERT(connection.sends());
  closed.end(connection);
  CU_ASSERT(unit::eventually([&] {  // it has it
    int unread = 0;
    return ioctl(connection.client.get(), SIOCOUTQ, &unread) == 0 && unread == 0;
  }));
  closed.process().signal(SIGSTOP);
  usleep(900'000);
  closed.process().signal(SIGCONT);
  usleep(150'000);
  CU_ASSERT(!connection.is_closed());
  CU_ASSERT(unit::eventually([&] { return connection.hangs_up(); }));
}

void the_oldest_goes_first() {
  Closed closed({.connections = 3});
  Pair connections[6];
  for (int i = 0; i < 6; ++i) {
    CU_ASSERT(connections[i].sends());
    closed.end(connections[i]);
    if (i >= 3) CU_ASSERT(unit::eventually([&] { return connections[i - 3].is_closed(); }));
  }
  for (int i = 3; i < 6; ++i) CU_ASSERT(!connections[i].is_closed());
}

void told_to_leave() {
  Closed closed({.silence_at_end = 50 * kMillisecond, .look_each = 10 * kMillisecond});
  Pair silent, served;
  closed.end(silent);
  CU_ASSERT(served.sends());
  closed.end(served);
  closed.process().signal(SIGTERM);
  CU_ASSERT(closed.process().succeeded());
  CU_ASSERT(silent.is_closed() && served.is_closed());
}

void a_reset_that_is_wanted() {
  const ClosingPairs pairs(false);
  const Closing closing(pairs.first.workers.get());
  Pair connection;
  const linger reset{1, 0};
  setsockopt(connection.server.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  closing.end(connection.server.get());
  CU_ASSERT(!has_message(pairs));
  CU_ASSERT(connection.has_seen_nothing());
}

// A program: leads a group, lends the connection, and ends. The other one of its group keeps it.
pid_t run_program(const Closed& closed, Pair& connection, bool leaves_one = false) {
  pid_t group = 0;
  unit::Child program([&] {
    setpgid(0, 0);
    closed.closing().lend(connection.server.get());
    if (leaves_one && fork() == 0) {
      close(closed.first());
      close(closed.second());
      for (;;) pause();
    }
    return true;
  });
  group = program.pid();
  CU_ASSERT(program.succeeded());  // and it is reaped
  connection.server.reset();
  return group;
}

void a_program_that_ended() {
  Closed closed;
  CU_ASSERT_FATAL(closed.runs());  // before anybody has ended
  Pair open, ended, gone;
  CU_ASSERT(open.sends() && ended.sends());
  shutdown(ended.client.get(), SHUT_WR);
  gone.client.reset();
  pid_t programs[3];
  int count = 0;
  for (Pair* each : {&open, &ended, &gone}) programs[count++] = run_program(closed, *each);
  CU_ASSERT(open.has_seen_nothing());
  for (pid_t pid : programs) CU_ASSERT(closed.closing().program_ended(pid));
  CU_ASSERT(open.sees_end() && ended.sees_end());
  CU_ASSERT(!open.is_closed());
  open.client.reset();
  closed.hang_up();
  CU_ASSERT(closed.process().succeeded());
}

void a_program_that_left_another_one() {
  Closed closed;
  Pair connection;
  CU_ASSERT(connection.sends());
  const pid_t group = run_program(closed, connection, true);
  CU_ASSERT(closed.closing().program_ended(group));
  // The closer lets go without a word, and has nothing more; the other one has it.
  closed.hang_up();
  CU_ASSERT(closed.process().succeeded());
  CU_ASSERT(connection.has_seen_nothing());
  CU_ASSERT(!connection.is_closed());
  kill(-group, SIGKILL);
  CU_ASSERT(unit::eventually([&] { return connection.is_closed(); }));
}

// One that had read "it has ended", and not yet whose connection that was.
void a_closer_that_dies_in_between() {
  Closed closed;
  closed.process().kill();
  Pair connection;
  CU_ASSERT(connection.sends());
  run_program(closed, connection);
  CU_ASSERT(connection.has_seen_nothing());
  closed.start_another();
  CU_ASSERT(connection.sees_end());
  CU_ASSERT(!connection.is_closed());
}

void the_supervisor_dies() {
  ClosingPairs pairs(true);
  const Closing closing(pairs.first.workers.get(), pairs.second.workers.get());
  unit::Shared<std::atomic<bool>> has_begun, has_ended;
  unit::Child supervisor([&] {
    const AllSignalsBlocked as_the_closer_has_them;
    const pid_t self = getpid();
    if (fork() == 0) {
      pairs.first.workers.reset();
      pairs.second.workers.reset();
      Lingering closer(pairs.first.closers.get(), pairs.second.closers.get(), self);
      *has_begun = true;
      closer.run();
      *has_ended = true;
      _exit(0);
    }
    for (;;) pause();
    return true;
  });
  pairs.first.closers.reset();
  pairs.second.closers.reset();
  Pair runs, comes_yet, over;
  CU_ASSERT(runs.sends() && comes_yet.sends() && over.sends());
  closing.lend(runs.server.get());
  closing.end(over.server.get());
  runs.server.reset();
  over.server.reset();
  CU_ASSERT(over.sees_end());
  CU_ASSERT(runs.has_seen_nothing());
  CU_ASSERT(unit::eventually([&] { return has_begun->load(); }));
  supervisor.kill();
  CU_ASSERT(unit::eventually([&] { return runs.is_closed(); }));
  closing.lend(comes_yet.server.get());
  comes_yet.server.reset();
  CU_ASSERT(unit::eventually([&] { return comes_yet.is_closed(); }));
  CU_ASSERT(!over.is_closed());
  over.client.reset();
  pairs.first.workers.reset();
  pairs.second.workers.reset();
  CU_ASSERT(unit::eventually([&] { return has_ended->load(); }));
}

// Whatever comes along, and whatever is said of it.
void send_to(int end, const std::vector<int>& descriptors, const void* bytes, size_t size) {
  std::vector<char> control(CMSG_SPACE(descriptors.size() * sizeof(int)));
  iovec part{const_cast<void*>(bytes), size};
  msghdr whole{};
  whole.msg_iov = &part;
  whole.msg_iovlen = 1;
  if (!descriptors.empty()) {
    whole.msg_control = control.data();
    whole.msg_controllen = control.size();
    cmsghdr* along = CMSG_FIRSTHDR(&whole);
    along->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    along->cmsg_level = SOL_SOCKET;
    along->cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(along), descriptors.data(), descriptors.size() * sizeof(int));
  }
  CU_ASSERT(unit::eventually([&] { return sendmsg(end, &whole, MSG_NOSIGNAL) >= 0; }));
}

// As many programs as there is room for between them and the closer, and more, before one has ended. (Here all are one
// process: each takes the place of the one before.)
void programs_without_number() {
  Closed closed;
  std::vector<Pair> connections(1500);
  for (Pair& each : connections) {
    CU_ASSERT(each.sends());
    closed.closing().lend(each.server.get());
    each.server.reset();
  }
  const ClosingMessage look{ClosingMessage::kLookAtLent, 0};
  send_to(closed.first(), {}, &look, sizeof look);
  CU_ASSERT(unit::eventually([&] {
    return std::count_if(connections.begin(), connections.end(),
                         [](const Pair& each) { return !each.is_closed(); }) <= 1;
  }));
}

void strangers() {
  Closed closed;
  UniqueFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC)), null(open("/dev/null", O_RDWR));
  UniqueFd door(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  listen(door.get(), 1);
  Pair some;
  std::vector<ClosingMessage> messages;
  for (uint32_t what : {0u, 1u, 2u, 3u, 4u, ~0u})
    for (pid_t pid : {0, 1, -1, getpid(), INT_MAX, INT_MIN}) messages.push_back({what, pid});
  for (const auto& descriptors : {std::vector<int>{},
                                  {file.get()},
                                  {null.get()},
                                  {door.get()},
                                  {file.get(), file.get()},
                                  {some.server.get()},
                                  {some.server.get(), null.get(), file.get(), door.get()}})
    for (int end : {closed.first(), closed.second()}) {
      send_to(end, descriptors, messages.data(), 0);
      send_to(end, descriptors, "x", 1);
      send_to(end, descriptors, std::string(5000, 'x').data(), 5000);
      for (const ClosingMessage& each : messages) send_to(end, descriptors, &each, sizeof each);
    }
  // It goes on.
  Pair connection;
  CU_ASSERT(connection.sends());
  const pid_t program = run_program(closed, connection);
  CU_ASSERT(connection.has_seen_nothing());
  CU_ASSERT(closed.closing().program_ended(program));
  CU_ASSERT(connection.sees_end());
  connection.client.reset();
  some.client.reset();
  some.server.reset();
  closed.process().signal(SIGTERM);
  CU_ASSERT(closed.process().succeeded());
}

}  // namespace

void add_closing_tests() {
  unit::add_suite("closing", {{"who ends first needs no closer", who_ends_first_needs_no_closer},
                              {"without a closer", without_a_closer},
                              {"reads on", reads_on},
                              {"bounds", bounds},
                              {"a standstill", a_standstill},
                              {"the oldest goes first", the_oldest_goes_first},
                              {"told to leave", told_to_leave},
                              {"a reset that is wanted", a_reset_that_is_wanted},
                              {"a program that ended", a_program_that_ended},
                              {"a program that left another one", a_program_that_left_another_one},
                              {"programs without number", programs_without_number},
                              {"a closer that dies in between", a_closer_that_dies_in_between},
                              {"the supervisor dies", the_supervisor_dies},
                              {"strangers", strangers}});
}
