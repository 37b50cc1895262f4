#include "daemon/upgrade.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/document.h"
#include "base/error.h"
#include "base/log.h"
#include "base/surroundings.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kRehearsal = 10 * kSecond;

std::string first_line(int fd) {
  char text[512];
  ssize_t n = read(fd, text, sizeof text);
  std::string all(text, n > 0 ? static_cast<size_t>(n) : 0);
  return all.substr(0, all.find('\n'));
}

}  // namespace

std::string Upgrade::obstacle() const {
  if (const std::string other = calls_.obstacle(); !other.empty()) return other;
  for (const auto& pool : pools_.configured())
    if (pool->waits_for_others())
      return "pool " + pool->settings().name + " waits for an address that others have yet" +
             (pool->reason().empty() ? "" : ": " + pool->reason());
  for (const auto& pool : pools_.leaving())
    return "pool " + pool->settings().name + ", taken out of the configuration, is still draining";
  return "";
}

void Upgrade::begin(uint32_t asked_by) {
  std::string refusal = is_under_way() ? "an upgrade is under way" : obstacle();
  if (refusal.empty()) {
    try {
      return start_rehearsal(asked_by);
    } catch (const std::exception& e) {
      refusal = e.what();
    }
  }
  refuse(asked_by, refusal);
}

void Upgrade::refuse(uint32_t asked_by, const std::string& reason) {
  log_error("upgrade refused, nothing has happened: " + reason, Event::kUpgradeRefused);
  if (asked_by) control_.answer(asked_by, 409, reason);
}

// A child of the new binary says whether it can read the state as it will have to. It has copies of nothing but the
// document.
void Upgrade::start_rehearsal(uint32_t asked_by) {
  auto r = std::make_unique<Rehearsal>();
  UniqueFd document = make_document(to_json(calls_.record(asked_by)));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) throw SysError("pipe", errno);
  UniqueFd write_end(ends[1]);
  r->output.reset(ends[0]);
  r->asked_by = asked_by;
  r->image.reset(open(paths_.daemon.c_str(), O_PATH | O_CLOEXEC));
  if (!r->image.is_open()) throw SysError("start " + paths_.daemon, errno);
  Launch what;
  what.executable = paths_.daemon;
  what.image = r->image.get();
  what.argv = {"preforkd: rehearsal", "--rehearse", "3"};
  what.descriptors = {document.get()};
  what.output = write_end.get();
  r->child = launch(what);
  r->timer = loop_.after(kRehearsal, [this] { rehearsal_->child.signal(SIGKILL); });
  rehearsal_ = std::move(r);
}

bool Upgrade::child_changed(pid_t pid, int status) {
  if (!owns(pid)) return false;
  if (WIFEXITED(status) || WIFSIGNALED(status)) on_rehearsed(status);
  return true;
}

void Upgrade::on_rehearsed(int status) {
  const auto rehearsed = std::move(rehearsal_);
  const auto failure = rehearsed->child.failure();
  const std::string said = failure ? failure->text() : first_line(rehearsed->output.get());
  std::string refusal;
  if (status != 0)
    refusal = said.empty() ? "the rehearsal: " + ending_text(status) : said;
  else if (said != kCanTakeOver)
    refusal = paths_.daemon + " did not say that it can take over";
  else
    refusal = obstacle();
  if (refusal.empty()) {
    try {
      exec_next_image(*rehearsed);
    } catch (const std::exception& e) {
      refusal = e.what();
    }
  }
  refuse(rehearsed->asked_by, refusal);  // still here
}

void Upgrade::exec_next_image(const Rehearsal& rehearsed) {
  UniqueFd old_image(open("/proc/self/exe", O_PATH | O_CLOEXEC));
  if (!old_image.is_open()) throw SysError("open /proc/self/exe", errno);
  log_notice("upgrading: executing " +
             paths_.daemon);  // (it may wait for who writes it: so before)
  for (const auto& pool : pools_.configured()) pool->say_put_off();
  control_.before_exec();
  DaemonRecord state = calls_.record(rehearsed.asked_by);
  state.old_image = old_image.get();
  UniqueFd document = make_document(to_json(state));
  std::string program = "preforkd", option = "--takeover", number = std::to_string(document.get());
  char* argv[] = {program.data(), option.data(), number.data(), nullptr};
  keep_over_exec(state, true);
  fcntl(document.get(), F_SETFD, 0);
  hand_on_surroundings();
  syscall(SYS_execveat, rehearsed.image.get(), "", argv, environ, AT_EMPTY_PATH);
  const int error = errno;
  take_surroundings_back();
  keep_over_exec(state, false);
  throw SysError("execute " + paths_.daemon, error);
}

}  // namespace preforkd
