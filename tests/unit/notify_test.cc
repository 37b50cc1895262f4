// What systemd is told, as it receives it.
#include "systemd/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/event.h"
#include "base/fd.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

// The manager's end of $NOTIFY_SOCKET, an abstract one.
class Manager {
 public:
  Manager() : socket_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_un any{AF_UNIX, {}};
    CU_ASSERT_EQUAL_FATAL(
        bind(socket_.get(), reinterpret_cast<sockaddr*>(&any), sizeof(sa_family_t)), 0);
    socklen_t size = sizeof any;
    getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&any), &size);
    const size_t length = size - offsetof(sockaddr_un, sun_path) - 1;
    setenv("NOTIFY_SOCKET", ("@" + std::string(any.sun_path + 1, length)).c_str(), 1);
  }
  ~Manager() { unsetenv("NOTIFY_SOCKET"); }

  // The next message; "": none was sent.
  std::string heard() const {
    char text[8192];
    ssize_t n = recv(socket_.get(), text, sizeof text, 0);
    return n > 0 ? std::string(text, static_cast<size_t>(n)) : "";
  }

 private:
  UniqueFd socket_;
};

void states() {
  Manager manager;
  Notify notify;
  notify.ready("1 of 1 pools running");
  CU_ASSERT(unit::same_text(manager.heard(), "READY=1\nSTATUS=1 of 1 pools running"));
  notify.status("1 of 1 pools running");
  CU_ASSERT(unit::same_text(manager.heard(), ""));
  notify.reloading("Reloading");
  const std::string reloading = manager.heard();
  CU_ASSERT(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="));
  CU_ASSERT(reloading.ends_with("\nSTATUS=Reloading"));
  notify.status("1 of 1 pools running");
  CU_ASSERT(unit::same_text(manager.heard(), "STATUS=1 of 1 pools running"));
  notify.extend_timeout(15 * kSecond);
  CU_ASSERT(unit::same_text(manager.heard(), "EXTEND_TIMEOUT_USEC=15000000"));
}

// A systemd that does not read: nothing waits for it, and it hears all in order but what is overtaken.
void nobody_reads() {
  Manager manager;
  EventLoop loop;
  Notify notify(&loop);
  for (int i = 0; i < 100'000 && notify.all_is_sent(); ++i)
    NotifySocket::of_process().send("X=" + std::to_string(i), NotifySocket::Kind::kEach);
  CU_ASSERT_FATAL(!notify.all_is_sent());
  notify.reloading("Reloading");
  for (int i = 0; i < 1000; ++i) {
    notify.status(std::to_string(i));
    notify.extend_timeout(static_cast<Nanoseconds>(i) * kSecond);
    notify.watchdog();
  }
  notify.ready("done");
  std::string heard, all;
  while (!(heard = manager.heard()).empty()) {
    if (!heard.starts_with("X=")) all += heard + "|";
    loop.turn(false);
  }
  CU_ASSERT(notify.all_is_sent());
  CU_ASSERT(all.starts_with("RELOADING=1\nMONOTONIC_USEC="));
  const size_t end = all.find('|');
  CU_ASSERT_FATAL(end != all.npos);
  CU_ASSERT(unit::same_text(all.substr(end + 1),
                            "STATUS=999|EXTEND_TIMEOUT_USEC=999000000|WATCHDOG=1|"
                            "READY=1\nSTATUS=done|"));
}

// A reason comes from a pool: it must not begin an assignment of its own.
void a_status_is_one_line() {
  Manager manager;
  Notify notify;
  notify.status("one\nREADY=1");
  CU_ASSERT(unit::same_text(manager.heard(), "STATUS=one READY=1"));
}

// systemd would ignore the whole message, READY included.
void a_long_status_is_cut() {
  Manager manager;
  Notify notify;
  std::string text;
  while (text.size() < 10'000) text += "€";
  for (int shift = 0; shift < 3; ++shift) {
    notify.ready(text);
    const std::string heard = manager.heard();
    CU_ASSERT(heard.size() < 4096);
    CU_ASSERT(heard.ends_with("€..."));
    text.insert(0, "x");
  }
  notify.status(std::string(10'000, '\x80'));  // not UTF-8 at all
  CU_ASSERT(unit::same_text(manager.heard(), "STATUS=..."));
}

// Whatever number comes, and none that is not a supervisor's to tell.
void events_of_supervisors() {
  for (uint32_t number = 0; number < 100; ++number) {
    const auto said = static_cast<Event>(number);
    const Event taken = event_of_supervisor(said);
    CU_ASSERT(taken == Event::kNone || (taken == said && event_id(taken)));
  }
  CU_ASSERT(event_of_supervisor(Event::kWorkerDied) == Event::kWorkerDied);
  CU_ASSERT(event_of_supervisor(Event::kPoolReady) == Event::kNone);
  CU_ASSERT(event_of_supervisor(static_cast<Event>(~0u)) == Event::kNone);
}

}  // namespace

void add_notify_tests() {
  static const unit::Test kTests[] = {
      {"states", states},
      {"nobody reads", nobody_reads},
      {"a status is one line", a_status_is_one_line},
      {"a long status is cut", a_long_status_is_cut},
      {"events of supervisors", events_of_supervisors},
  };
  unit::add_suite("notify", kTests);
}
