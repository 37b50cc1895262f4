// base/loop: events, one-shot timers, and callbacks that change what is watched while they run.
#include "base/loop.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>

#include <cstddef>
#include <iterator>
#include <string>
#include <vector>

#include "base/log.h"
#include "daemon/patience.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

struct Pipe {
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) throw SysError("pipe2", errno);
    out.reset(ends[0]);
    in.reset(ends[1]);
  }
  void fill() { CU_ASSERT_EQUAL(write(in.get(), "x", 1), 1); }
  void drain() {
    char byte;
    CU_ASSERT_EQUAL(read(out.get(), &byte, 1), 1);
  }
  UniqueFd out, in;
};

void events() {
  EventLoop loop;
  Pipe p;
  int called = 0;
  uint32_t seen = 0;
  loop.watch(p.out.get(), EPOLLIN, [&](uint32_t events) { ++called, seen = events; });
  loop.turn(false);
  CU_ASSERT_EQUAL(called, 0);
  p.fill();
  loop.turn(true);
  loop.turn(false);  // level-triggered: again, as long as nobody reads
  CU_ASSERT_EQUAL(called, 2);
  CU_ASSERT_EQUAL(seen, EPOLLIN);
  loop.change(p.out.get(), 0);
  loop.turn(false);
  CU_ASSERT_EQUAL(called, 2);
  p.drain();
  loop.change(p.out.get(), EPOLLIN);
  p.in.reset();
  loop.turn(true);
  CU_ASSERT_EQUAL(called, 3);
  CU_ASSERT(seen & EPOLLHUP);
  loop.forget(p.out.get());
  loop.forget(p.out.get());  // harmless
  loop.turn(false);
  CU_ASSERT_EQUAL(called, 3);
}

void errors() {
  EventLoop loop;
  Pipe p;
  auto nothing = [](uint32_t) {};
  loop.watch(p.out.get(), EPOLLIN, nothing);
  auto throws = [](auto call) {
    try {
      call();
    } catch (const SysError& e) {
      return true;
    }
    return false;
  };
  CU_ASSERT_TRUE(throws([&] { loop.watch(p.out.get(), EPOLLIN, nothing); }));
  CU_ASSERT_TRUE(throws([&] { loop.watch(-1, EPOLLIN, nothing); }));
  CU_ASSERT_TRUE(throws([&] { loop.change(p.in.get(), EPOLLIN); }));
}

void timers_in_order() {
  EventLoop loop;
  std::string order;
  const Nanoseconds now = monotonic_now();
  const auto c = loop.at(now + 2 * kMillisecond, [&] { order += "c", loop.stop(); });
  const auto a = loop.at(now - 5, [&] { order += "a"; });
  const auto b = loop.at(now + kMillisecond, [&] { order += "b"; });
  // Due at the same time: in the order of setting.
  const auto also_a = loop.at(now - 5, [&] { order += "A"; });
  auto cancelled = loop.at(now - 5, [&] { order += "x"; });
  CU_ASSERT(cancelled.is_set() && !EventLoop::Timer().is_set());
  cancelled = {};
  CU_ASSERT(!cancelled.is_set());
  cancelled = {};
  {
    const auto dropped = loop.at(now - 5, [&] { order += "y"; });
  }
  auto replaced = loop.at(now - 5, [&] { order += "z"; });
  replaced = loop.at(now - 5, [&] { order += "."; });
  EventLoop::Timer moved = std::move(replaced);
  // NOLINTNEXTLINE(bugprone-use-after-move): that it is empty then is what is asked
  CU_ASSERT(moved.is_set() && !replaced.is_set());
  loop.run();
  CU_ASSERT(unit::same_text(order, "aA.bc"));
  CU_ASSERT(!moved.is_set());
  CU_ASSERT(monotonic_now() >= now + 2 * kMillisecond);
}

void timers_set_and_cancelled_by_timers() {
  EventLoop loop;
  std::string order;
  const Nanoseconds past = monotonic_now() - kSecond;
  EventLoop::Timer second;
  const auto first = loop.at(past, [&] {
    order += "1";
    second = {};
    loop.run_after(0, [&] { order += "3", loop.stop(); });
  });
  second = loop.at(past + 1, [&] { order += "2"; });
  EventLoop::Timer itself;
  itself = loop.at(past + 2, [&] {
    order += itself.is_set() ? "I" : "i";
    itself = loop.at(past + 4, [&] { order += "j"; });
  });
  const auto last = loop.at(past + 3, [&] { itself = {}; });
  loop.run();
  CU_ASSERT(unit::same_text(order, "1i3"));
}

// A timer far away does not end a turn that has an event, nor does a turn that does not block wait.
// A patient one gives the time for which this process stood still to whoever it waits for.
void patient_timers() {
  EventLoop loop;
  PatientTimer timer(loop), dropped(loop);
  Nanoseconds called_at = 0;
  int calls = 0;
  auto again = [&] {
    ++calls;
    called_at = monotonic_now();
    timer.set_after(kMillisecond, [&] {
      ++calls;
      loop.stop();
    });
  };
  constexpr Nanoseconds kFor = 100 * kMillisecond, kStands = 500 * kMillisecond;
  const Nanoseconds began = monotonic_now();
  timer.set_after(kFor, again);
  dropped.set_after(kMillisecond, [] { CU_FAIL("it was dropped"); });
  dropped.drop();
  CU_ASSERT_FALSE(dropped.is_set());
  loop.run_after(0, [] {
    const timespec while_it_stands = to_timespec(kStands);
    nanosleep(&while_it_stands, nullptr);
  });
  loop.run();
  CU_ASSERT_EQUAL(calls, 2);
  CU_ASSERT(called_at >= began + kFor + kStands);
  CU_ASSERT_FALSE(timer.is_set());
}

void timers_beside_events() {
  EventLoop loop;
  Pipe p;
  bool timer = false, event = false;
  const auto far = loop.after(3600 * kSecond, [&] { timer = true; });
  loop.watch(p.out.get(), EPOLLIN, [&](uint32_t) { event = true; });
  loop.turn(false);
  p.fill();
  loop.turn(true);
  CU_ASSERT(event && !timer);
}

void a_callback_forgets_itself() {
  EventLoop loop;
  Pipe p;
  int called = 0;
  std::string captured(100, 'x');  // on the heap: the callback must outlive being forgotten
  loop.watch(p.out.get(), EPOLLIN, [&loop, &p, &called, captured](uint32_t) {
    loop.forget(p.out.get());
    called += captured == std::string(100, 'x');
  });
  p.fill();
  loop.turn(true);
  loop.turn(false);
  CU_ASSERT_EQUAL(called, 1);
}

// Of two that are ready in one batch, the first forgets the second.
void a_callback_forgets_another() {
  EventLoop loop;
  Pipe a, b;
  int called = 0;
  auto forget_other = [&](const Pipe& other) {
    return [&loop, &called, &other](uint32_t) {
      ++called;
      loop.forget(other.out.get());
    };
  };
  loop.watch(a.out.get(), EPOLLIN, forget_other(b));
  loop.watch(b.out.get(), EPOLLIN, forget_other(a));
  a.fill();
  b.fill();
  loop.turn(true);
  CU_ASSERT_EQUAL(called, 1);
}

// ... and closes it, and watches something new that gets its number: the event was not meant for that.
void an_event_of_a_closed_descriptor() {
  EventLoop loop;
  Pipe a, b, fresh;
  int stale = 0;
  auto replace_other = [&](Pipe& own, Pipe& other) {
    return [&](uint32_t) {
      own.drain();
      const int number = other.out.get();
      loop.forget(number);
      other.out.reset();
      CU_ASSERT_EQUAL_FATAL(dup3(fresh.out.get(), number, O_CLOEXEC), number);
      other.out.reset(number);
      loop.watch(number, EPOLLIN, [&](uint32_t) { ++stale; });
    };
  };
  loop.watch(a.out.get(), EPOLLIN, replace_other(a, b));
  loop.watch(b.out.get(), EPOLLIN, replace_other(b, a));
  a.fill();
  b.fill();
  loop.turn(true);
  CU_ASSERT_EQUAL(stale, 0);
  fresh.fill();  // its own event it does get
  loop.turn(true);
  CU_ASSERT_EQUAL(stale, 1);
}

void a_callback_watches_more() {
  EventLoop loop;
  std::vector<Pipe> pipes(200);  // more than one batch
  size_t called = 0;
  for (Pipe& p : pipes) p.fill();
  loop.watch(pipes[0].out.get(), EPOLLIN, [&](uint32_t) {
    pipes[0].drain();
    for (size_t i = 1; i < pipes.size(); ++i)
      loop.watch(pipes[i].out.get(), EPOLLIN, [&, i](uint32_t) {
        pipes[i].drain();
        if (++called == pipes.size() - 1) loop.stop();
      });
  });
  loop.run();
  CU_ASSERT_EQUAL(called, pipes.size() - 1);
}

void on_signal(int) {}

void a_signal_is_no_error() {
  EventLoop loop;
  struct sigaction action {
  }, before{};
  action.sa_handler = on_signal;
  sigaction(SIGALRM, &action, &before);
  loop.run_after(20 * kMillisecond, [&] { loop.stop(); });
  ualarm(2000, 2000);
  loop.run();
  ualarm(0, 0);
  sigaction(SIGALRM, &before, nullptr);
}

// From here on nobody in this process may watch this descriptor.
void leave_no_room_for(uint32_t fd) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_ctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, fd, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSPC),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), program};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0) throw SysError("seccomp", errno);
}

std::string said;

// It is said within the same turn: the next one may see an exec.
void no_room() {
  unit::Child process([] {
    constexpr int kUnwatched = 900;
    Pipe p, other;
    UniqueFd unwatched(dup3(p.out.get(), kUnwatched, O_CLOEXEC));
    leave_no_room_for(kUnwatched);
    set_log_sink([](const LogLine& line) { said += line.text; });
    EventLoop loop;
    int called = 0;
    loop.watch(kUnwatched, EPOLLIN, [](uint32_t) {});
    loop.watch(other.out.get(), EPOLLIN, [&](uint32_t) { ++called; });
    other.fill();
    loop.turn(false);
    return called == 1 &&
           said.ends_with(
               "No space left on device: what is to be watched waits until there is room");
  });
  CU_ASSERT_TRUE(process.succeeded());
}

}  // namespace

void add_loop_tests() {
  static const unit::Test kTests[] = {
      {"events", events},
      {"what cannot be watched", errors},
      {"no room", no_room},
      {"timers, in order", timers_in_order},
      {"timers set and cancelled by timers", timers_set_and_cancelled_by_timers},
      {"patient timers", patient_timers},
      {"timers beside events", timers_beside_events},
      {"a callback forgets itself", a_callback_forgets_itself},
      {"a callback forgets another", a_callback_forgets_another},
      {"an event of a closed descriptor", an_event_of_a_closed_descriptor},
      {"a callback watches more", a_callback_watches_more},
      {"a signal is no error", a_signal_is_no_error},
  };
  unit::add_suite("loop", kTests);
}
