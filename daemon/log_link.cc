#include "daemon/log_link.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "daemon/plan.h"
#include "ipc/log_messages.h"
#include "ipc/protocol.h"

namespace preforkd {
namespace {

constexpr Backoff kRestart = {50 * kMillisecond, 10 * kSecond};
constexpr Nanoseconds kLongLife = 10 * kSecond;
constexpr Nanoseconds kStuckTooLong = 5 * kSecond;  // told to end
constexpr Nanoseconds kHungUp = 1 * kSecond;        // its death is on its way, or not
constexpr int kSilence = 5;                         // seconds after a ping
constexpr Nanoseconds kRest = 1 * kSecond;          // between two pings
constexpr Nanoseconds kPongsAgain = 1 * kSecond;
constexpr Nanoseconds kLastWords = 1 * kSecond;
constexpr size_t kMostWaiting = 1024 * 1024;
constexpr char kHasNotEnded[] = "was told to end 5 s ago and has not";

template <Message T>
std::string bytes_of(const T& message) {
  return std::string(reinterpret_cast<const char*>(&message), sizeof message);
}

std::string pipe_news(LogNews kind, const LogPipe& pipe) {
  LogNewsPipe news;
  news.kind = kind;
  news.id = pipe.id();
  pipe.pool().copy(news.pool, kPoolNameMax);
  return bytes_of(news);
}

// Of a line as it waits.
LogNewsLine head_of(const std::string& line) {
  LogNewsLine head;
  line.copy(reinterpret_cast<char*>(&head), sizeof head);
  return head;
}

std::string_view text_of(const std::string& line) {
  return std::string_view(line).substr(sizeof(LogNewsLine));
}

LogLink* log_target = nullptr;  // for the log sink, which takes no context

}  // namespace

LogPipe::~LogPipe() { link_.forget(*this); }

LogLink::LogLink(EventLoop& loop, Held executable, EffectiveUser user)
    : loop_(loop), executable_(std::move(executable)), user_(std::move(user)) {}

void LogLink::take_lines() {
  log_target = this;
  set_log_sink([](const LogLine& line) { log_target->add(line); });
}

LogLink::~LogLink() { close_ends(); }

void LogLink::start() {
  auto [news, to_learn] = Channel::make_pair();
  auto [pongs, to_answer] = make_message_pipe();
  Launch what;
  what.executable = executable_->path();
  what.image = executable_->to_execute();
  what.argv = {"preforkd: log", protocol_option(kNoLayout)};
  what.descriptors = {to_learn.get(), to_answer.get()};
  what.user = user_;
  what.keeps_signals_within = true;
  child_ = launch(what);
  started_at_ = monotonic_now();
  news_ = Channel(std::move(news));
  unread_ = Channel(std::move(to_learn));
  pongs_ = Inbox(std::move(pongs));
  watch_pongs();
  // All pipes, and then the lines that nobody has heard. (A pipe that only its own news still holds says that it is over when
  // they go: last of all.)
  auto before = std::exchange(waiting_, {});
  for (auto& [id, entry] : pipes_)
    if (auto pipe = entry.pipe.lock())
      waiting_.push_back({pipe_news(LogNews::kPipe, *pipe), News::kPipe, pipe});
  for (News& one : before)
    if (one.kind == News::kLine) waiting_.push_back(std::move(one));
  flush();
  stir();
}

void LogLink::add(const LogLine& line) {
  LogNewsLine head;
  head.level = static_cast<int32_t>(line.level);
  head.worker = line.worker;
  head.event = line.event;
  line.pool.copy(head.pool, kPoolNameMax);
  const std::string_view text = line.text.substr(0, kMostOfLine + 1);  // log_text() cuts the rest
  if (bytes_waiting_ + text.size() > kMostWaiting) {
    ++lost_;
    return;
  }
  head.lost = std::exchange(lost_, 0);
  bytes_waiting_ += sizeof head + text.size();
  push({bytes_of(head).append(text), News::kLine});
  stir();
}

void LogLink::push(News news) {
  waiting_.push_back(std::move(news));
  flush();
}

void LogLink::flush() {
  if (!news_.is_open()) return;
  auto sent = Channel::Sent::kYes;
  while (!waiting_.empty()) {
    News& next = waiting_.front();
    sent = news_.send(std::as_bytes(std::span(next.bytes)), {},
                      next.pipe ? next.pipe->read_end() : -1);
    if (sent != Channel::Sent::kYes) break;  // gone: its death follows, and the next one is told
    if (next.kind == News::kLine) bytes_waiting_ -= next.bytes.size();
    const News done = std::move(next);  // its pipe may be over with it, and then says so
    waiting_.pop_front();
    if (done.kind == News::kLast) return close_ends();
  }
  const bool is_full = sent == Channel::Sent::kFull;
  if (waiting_.empty() && closing_) return close_ends();
  if (is_full == waits_for_room_) return;
  waits_for_room_ = is_full;
  if (is_full)
    loop_.watch(news_.fd(), EPOLLOUT, [this](uint32_t) { flush(); });
  else
    loop_.forget(news_.fd());
}

void LogLink::close_ends() {
  ping_timer_ = {};
  pongs_timer_ = {};
  rest_timer_ = {};
  if (news_.is_open() && std::exchange(waits_for_room_, false)) loop_.forget(news_.fd());
  if (pongs_.is_open()) loop_.forget(pongs_.fd());
  news_.close();
  pongs_.close();
}

// --- pipes ---------------------------------------------------------------------------------------

LogLink::NewPipe LogLink::open_pipe(const std::string& pool) {
  int ends[2];
  // To write to it may have to wait: programs expect that of their stderr.
  if (pipe2(ends, O_CLOEXEC) < 0) throw SysError("pipe for the log", errno);
  NewPipe made{nullptr, UniqueFd(ends[1])};
  UniqueFd read_end(ends[0]);
  if (fcntl(read_end.get(), F_SETFL, O_NONBLOCK) < 0) throw SysError("pipe for the log", errno);
  // Whoever has it may open it again as /dev/stderr, to write; nobody else comes there (proc(5), fd/). To change its
  // owner instead takes a capability that the unit does not give.
  if (fchmod(made.write_end.get(), 0622) < 0) throw SysError("pipe for the log", errno);
  made.pipe = add_pipe(next_pipe_++, pool, std::move(read_end));
  return made;
}

std::shared_ptr<LogPipe> LogLink::add_pipe(uint32_t id, const std::string& pool,
                                           UniqueFd read_end) {
  auto pipe = std::make_shared<LogPipe>(*this, id, pool, std::move(read_end));
  pipes_[id] = {pipe};
  loop_.watch(pipe->read_end(), EPOLLIN | EPOLLONESHOT,
              [this, id](uint32_t events) { on_pipe(id, events); });
  tell_pipe(pipe);
  return pipe;
}

void LogLink::tell_pipe(const std::shared_ptr<LogPipe>& pipe) {
  if (news_.is_open()) push({pipe_news(LogNews::kPipe, *pipe), News::kPipe, pipe});
}

void LogLink::forget(const LogPipe& pipe) {
  loop_.forget(pipe.read_end());
  pipes_.erase(pipe.id());
  if (news_.is_open()) push({pipe_news(LogNews::kOver, pipe)});
}

// Somebody has written there (at its end: nobody will any more). Looked for again after a pause.
void LogLink::on_pipe(uint32_t id, uint32_t events) {
  if (events & EPOLLIN) pipes_.at(id).to_be_watched = true;
  stir();
}

// --- signs of life -------------------------------------------------------------------------------

void LogLink::stir() {
  stirred_ = true;
  if (!news_.is_open() || closing_ || renewing_ || ping_timer_.is_set() || rest_timer_.is_set())
    return;
  stirred_ = false;
  wait_for_pong(kSilence);
  push({bytes_of(LogSignal{LogNews::kPing})});
}

// As ControlLink: while the daemon stands still the log process does, too.
void LogLink::wait_for_pong(int seconds) {
  ping_timer_ = loop_.after(kSecond, [this, seconds] {
    if (seconds > 1) return wait_for_pong(seconds - 1);
    kill("has been silent for 5 s");
  });
}

void LogLink::watch_pongs() {
  loop_.watch(pongs_.fd(), EPOLLIN, [this](uint32_t) { read_pongs(); });
}

void LogLink::read_pongs() {
  if (!budget_.take(monotonic_now())) {
    loop_.forget(pongs_.fd());
    pongs_timer_ = loop_.after(kPongsAgain, [this] { watch_pongs(); });
    return;
  }
  std::string bytes;
  Inbox::Got got = pongs_.receive(bytes);
  if (got == Inbox::Got::kNothing) return;
  if (got == Inbox::Got::kGone) {  // without it, it is of no use
    close_ends();
    return kill_after(kHungUp, "has closed its channel");
  }
  if (!ping_timer_.is_set()) return;
  ping_timer_ = {};
  rest_timer_ = loop_.after(kRest, [this] { rest(); });
}

// The pause after a sign of life is over.
void LogLink::rest() {
  for (auto& [id, entry] : pipes_) {
    auto pipe = entry.pipe.lock();
    if (pipe && std::exchange(entry.to_be_watched, false))
      loop_.change(pipe->read_end(), EPOLLIN | EPOLLONESHOT);
  }
  if (stirred_) stir();
}

// --- its life and death --------------------------------------------------------------------------

void LogLink::kill(const std::string& why) {
  child_.signal(SIGKILL);
  log_error("the log process " + std::to_string(child_.pid) + " " + why + ": killed",
            Event::kLogDied);
}

void LogLink::kill_after(Nanoseconds delay, const std::string& why) {
  kill_timer_.set_after(delay, [this, why] { kill(why); });
}

// Of a process that is dead: the lines that it has not read, in front of those that wait. Pipes are told anew.
void LogLink::take_back_unread() {
  std::deque<News> lines;
  Channel::Datagram datagram;
  while (unread_.receive(datagram) == Channel::Got::kMessage) {
    LogSignal signal;
    datagram.bytes.copy(reinterpret_cast<char*>(&signal), sizeof signal);
    if (signal.kind != LogNews::kLine) continue;
    bytes_waiting_ += datagram.bytes.size();
    lines.push_back({std::move(datagram.bytes), News::kLine});
  }
  unread_.close();
  waiting_.insert(waiting_.begin(), std::make_move_iterator(lines.begin()),
                  std::make_move_iterator(lines.end()));
}

bool LogLink::child_changed(pid_t pid, int status) {
  if (pid != child_.pid) return false;
  if (WIFSTOPPED(status)) kill("was stopped by a signal");
  if (WIFSTOPPED(status) || WIFCONTINUED(status)) return true;
  kill_timer_.drop();
  auto failure = child_.failure();
  child_ = Child{};
  close_ends();
  take_back_unread();
  if (closing_) {
    say_directly();
  } else if (std::exchange(renewing_, false)) {
    start_again();
  } else {
    // Nobody is there who could write it.
    if (failure) log_to_stderr_at_once({LogLevel::kError, {}, 0, failure->text()});
    log_error("the log process " + std::to_string(pid) + " died (" + ending_text(status) +
                  "): starting another; what it had read and not written is lost",
              Event::kLogDied);
    start_later();
  }
  return true;
}

void LogLink::start_later() {
  if (monotonic_now() - started_at_ >= kLongLife) failures_ = 0;
  restart_timer_ = loop_.after(kRestart.after(failures_++), [this] { start_again(); });
}

void LogLink::start_again() {
  try {
    start();
  } catch (const std::exception& e) {
    log_to_stderr_at_once({LogLevel::kError, {}, 0, e.what()});
    start_later();
  }
}

// There is no process that could write what waits, and there will be none.
void LogLink::say_directly() {
  for (const News& news : std::exchange(waiting_, {})) {
    if (news.kind != News::kLine) continue;
    const LogNewsLine head = head_of(news.bytes);
    log_to_stderr_at_once({static_cast<LogLevel>(head.level), head.pool, head.worker,
                           text_of(news.bytes), head.event});
  }
  bytes_waiting_ = 0;
}

void LogLink::close() {
  closing_ = true;
  restart_timer_ = {};
  if (!is_running()) return say_directly();
  kill_after(kLastWords, "does not end");
  flush();
}

void LogLink::close_and_wait() {
  close();
  pollfd end{child_.pidfd.get(), POLLIN, 0};
  auto wait = [&] { poll(&end, 1, static_cast<int>(kLastWords / kMillisecond)); };
  if (is_running()) wait();
  child_.signal(SIGKILL);
  if (is_running()) wait();  // one that hangs within the kernel dies when that lets it
  int status = 0;
  if (is_running() && waitpid(child_.pid, &status, WNOHANG) == child_.pid)
    child_changed(child_.pid, status);
}

// --- over an upgrade -----------------------------------------------------------------------------

LogRecord LogLink::record() const {
  LogRecord r;
  r.pid = child_.pid;
  r.news = news_.fd();
  r.pongs = pongs_.fd();
  r.next_pipe = next_pipe_;
  r.stopped = kill_timer_.is_set();
  r.lost = lost_;
  for (const News& news : waiting_) {
    if (news.kind != News::kLine) continue;
    const LogNewsLine head = head_of(news.bytes);
    r.waiting.push_back({head.level, head.worker, static_cast<uint32_t>(head.event), head.lost,
                         head.pool, std::string(text_of(news.bytes))});
  }
  return r;
}

// Its pipes it has, by numbers that are not used again: it is given them anew when it is replaced.
void LogLink::resume(const LogRecord& r) {
  next_pipe_ = r.next_pipe;
  for (const LogLineRecord& line : r.waiting) {
    lost_ += line.lost;
    add({static_cast<LogLevel>(line.level), line.pool, line.worker, line.text,
         static_cast<Event>(line.event)});
  }
  lost_ += r.lost;
  if (r.pid <= 0) return start_again();
  child_ = existing_child(r.pid);
  if (r.stopped || r.pongs < 0) kill_after(kStuckTooLong, kHasNotEnded);
  if ((renewing_ = r.pongs < 0)) return;  // it is ending
  news_ = Channel(UniqueFd(r.news));
  pongs_ = Inbox(UniqueFd(r.pongs));
  watch_pongs();
  flush();
  if (stirred_) stir();
}

std::shared_ptr<LogPipe> LogLink::restore_pipe(const std::string& pool, const LogPipeRecord& r) {
  return add_pipe(r.id, pool, UniqueFd(r.read_end));
}

void LogLink::renew() {
  if (!news_.is_open()) return;  // the next one will be of the new binary
  renewing_ = true;
  push({bytes_of(LogSignal{LogNews::kRetire}), News::kLast});
  kill_after(kStuckTooLong, kHasNotEnded);
}

}  // namespace preforkd
