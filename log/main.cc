// preforkd-log: writes the log of all of one preforkd, and alone speaks with the journal or stderr. Started by the
// daemon, never by hand, as a user of its own (where the daemon is root), with these descriptors and no other:
//
//   0   nothing     1, 2   the daemon's own
//   3      a channel from the daemon (ipc/log_messages.h)
//   4      a pipe to it
//
// One thread reads, and never waits for the other, which writes. It ends when the channel and all pipes have; so that
// whoever a dead daemon has left writes on, and gets no SIGPIPE. A terminal's ^C is for the daemon to judge.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <exception>

#include "base/error.h"
#include "base/log.h"
#include "base/process_title.h"
#include "base/surroundings.h"
#include "base/undumpable.h"
#include "ipc/protocol.h"
#include "log/reader.h"

namespace preforkd {
namespace {

constexpr int kNews = 3;
constexpr int kPongs = 4;

UniqueFd inherited(int fd) {
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
    throw SysError("use descriptor " + std::to_string(fd) + ", which only the daemon can give",
                   errno);
  return UniqueFd(fd);
}

void run() {
  for (int number : {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGPIPE}) signal(number, SIG_IGN);
  UniqueFd news = inherited(kNews);
  UniqueFd pongs = inherited(kPongs);
  static Writer writer;  // its thread lasts as long as the process
  Reader reader(writer, std::move(news), std::move(pongs));
  reader.run();
  writer.finish();
}

}  // namespace
}  // namespace preforkd

int main(int argc, char** argv) {
  using namespace preforkd;
  become_undumpable();
  put_surroundings_right();
  have_own_files();  // the log's size is limited like theirs, and that must not end it
  expect_protocol(argc, argv, kNoLayout);
  reserve_process_title(argc, argv);
  set_process_title("preforkd: log", "preforkd-log");  // without what it was told besides
  try {
    run();
    _exit(0);  // the thread may stand in a write
  } catch (const std::exception& error) {
    log_error(std::string("log: ") + error.what());
    _exit(static_cast<int>(ExitCode::kSystem));
  }
}
