#include "daemon/control_link.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>

#include "base/log.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kFirstPause = 50 * kMillisecond;
constexpr Nanoseconds kLongestPause = 10 * kSecond;
constexpr Nanoseconds kLongLife = 10 * kSecond;
constexpr Nanoseconds kStuckTooLong = 5 * kSecond;      // stopped by a signal, or told to end
constexpr Nanoseconds kQuiet = 1 * kSecond;             // for control to pass on an answer
constexpr Nanoseconds kLongestQuestion = 60 * kSecond;  // then who waits is not waited for
constexpr int kMostAtOnce = 64;        // datagrams read before others have their turn
constexpr size_t kMostWaiting = 4096;  // datagrams; a control that reads none of so many is stuck

std::string with_header(ControlNews kind, const std::string& json, const std::string& base) {
  ControlNewsHeader header;
  header.kind = kind;
  header.json_size = static_cast<uint32_t>(json.size());
  header.base_size = static_cast<uint32_t>(base.size());
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + json + base;
}

template <Message T>
std::string bytes_of(const T& message) {
  return std::string(reinterpret_cast<const char*>(&message), sizeof message);
}

}  // namespace

ControlLink::ControlLink(EventLoop& loop, Kind kind, std::string executable, UniqueFd listen_socket,
                         EffectiveUser user, std::string log_level, Calls calls)
    : loop_(loop),
      kind_(kind),
      executable_(std::move(executable)),
      listen_socket_(std::move(listen_socket)),
      user_(std::move(user)),
      log_level_(std::move(log_level)),
      calls_(std::move(calls)) {}

ControlLink::~ControlLink() {
  loop_.cancel(restart_timer_);
  loop_.cancel(renew_timer_);
  loop_.cancel(stuck_timer_);
  if (channel_.is_open()) loop_.forget(channel_.fd());
}

void ControlLink::start() {
  auto [ours, theirs] = Channel::make_pair();
  // A burst of news (many pools at once) should fit; what does not waits here.
  int room = 1 << 20;
  setsockopt(ours.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  Launch what;
  what.executable = executable_;
  what.argv = {kind_ == Kind::kWeb ? "preforkd: control web" : "preforkd: control",
               "--log-level=" + log_level_};
  if (kind_ == Kind::kWeb) what.argv.emplace_back("--web");
  what.descriptors = {theirs.get(), listen_socket_.get()};
  what.user = user_;
  child_ = launch(what);
  started_at_ = monotonic_now();
  channel_ = Channel(std::move(ours));
  watch_channel();
  waiting_.clear();
  told_segments_.clear();
  unanswered_.clear();
  calls_.greet(*this);
}

void ControlLink::watch_channel() {
  loop_.watch(channel_.fd(), EPOLLIN, [this](uint32_t events) {
    if (events & EPOLLOUT) flush();
    if (events & (EPOLLIN | EPOLLHUP)) read_channel();
  });
}

LinkRecord ControlLink::record() const {
  LinkRecord r;
  r.web = kind_ == Kind::kWeb;
  r.pid = child_.pid;
  r.channel = channel_.fd();
  r.listen = listen_socket_.get();
  r.started_at = started_at_;
  r.stopped = stuck_timer_.second != 0;
  r.next_ticket = next_ticket_;
  r.unanswered = unanswered_;
  return r;
}

void ControlLink::resume(const LinkRecord& r) {
  if (r.pid <= 0) return start_again();
  child_ = existing_child(r.pid);
  if (r.stopped || r.channel < 0) kill_if_stuck();  // waitpid() says of neither again
  if (r.channel < 0) return;                        // it is ending
  started_at_ = r.started_at;
  channel_ = Channel(UniqueFd(r.channel));
  next_ticket_ = r.next_ticket;
  unanswered_ = r.unanswered;
  watch_channel();
  calls_.greet(*this);
}

void ControlLink::renew() {
  renew_until_ = monotonic_now() + kLongestQuestion;
  renew_soon();
}

void ControlLink::renew_soon() {
  renew_timer_ = loop_.after(kQuiet, [this] { renew_when_quiet(); });
}

// A question that is on its way, or an answer that control has only just been given, would be lost with it.
void ControlLink::renew_when_quiet() {
  renew_timer_ = {};
  if (closing_ || !channel_.is_open()) return;  // the next one will be of the new binary
  read_channel();
  const Nanoseconds now = monotonic_now();
  const bool is_quiet = unanswered_.empty() && now >= answered_at_ + kQuiet;
  if (!is_quiet && now < renew_until_) return renew_soon();
  renewing_ = true;
  flush();
  if (!channel_.is_open()) return;
  loop_.forget(channel_.fd());
  channel_.close();
  if (stuck_timer_.second == 0) kill_if_stuck();
}

void ControlLink::kill_if_stuck() {
  stuck_timer_ = loop_.after(kStuckTooLong, [this] {
    stuck_timer_ = {};
    child_.signal(SIGKILL);
  });
}

void ControlLink::start_again() {
  restart_timer_ = {};
  try {
    start();
  } catch (const std::exception& e) {
    log_error(e.what());
    pause_ = std::clamp(pause_ * 2, kFirstPause, kLongestPause);
    restart_timer_ = loop_.after(pause_, [this] { start_again(); });
  }
}

bool ControlLink::child_changed(pid_t pid, int status) {
  if (pid != child_.pid) return false;
  if (WIFCONTINUED(status) && renewing_) return true;
  loop_.cancel(stuck_timer_);
  if (WIFSTOPPED(status)) kill_if_stuck();
  if (WIFSTOPPED(status) || WIFCONTINUED(status)) return true;
  child_ = Child{};
  if (channel_.is_open()) {
    loop_.forget(channel_.fd());
    channel_.close();
  }
  if (closing_) return true;
  if (std::exchange(renewing_, false)) {
    start_again();
    return true;
  }
  log_warning("control " + std::to_string(pid) + " died (" +
                  (WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                       : "status " + std::to_string(WEXITSTATUS(status))) +
                  "): starting another",
              Event::kControlDied);
  if (monotonic_now() - started_at_ >= kLongLife) pause_ = 0;
  restart_timer_ = loop_.after(pause_, [this] { start_again(); });
  pause_ = std::clamp(pause_ * 2, kFirstPause, kLongestPause);
  return true;
}

void ControlLink::close() {
  closing_ = true;
  loop_.cancel(restart_timer_);
  if (!channel_.is_open()) return;
  flush();
  loop_.forget(channel_.fd());
  channel_.close();
}

void ControlLink::retire() {
  shutdown(listen_socket_.get(), SHUT_RDWR);
  close();
}

// --- news ----------------------------------------------------------------------------------------

void ControlLink::push(std::string bytes, UniqueFd copy) {
  if (!channel_.is_open()) return;  // the next process is greeted with everything
  waiting_.push_back({std::move(bytes), std::move(copy)});
  flush();
  if (waiting_.size() > kMostWaiting) child_.signal(SIGKILL);
}

void ControlLink::flush() {
  while (!waiting_.empty()) {
    News& next = waiting_.front();
    auto sent = channel_.send(std::as_bytes(std::span(next.bytes)), {}, next.descriptor.get());
    if (sent == Channel::Sent::kFull) return loop_.change(channel_.fd(), EPOLLIN | EPOLLOUT);
    waiting_.pop_front();  // sent, or nobody will ever read it
  }
  if (channel_.is_open()) loop_.change(channel_.fd(), EPOLLIN);
}

void ControlLink::tell_daemon(const std::string& json) {
  push(with_header(ControlNews::kDaemon, json, ""));
}

void ControlLink::tell_pool(const std::string& json, const std::string& base) {
  push(with_header(ControlNews::kPool, json, base));
}

void ControlLink::tell_segment(const std::string& pool, uint32_t generation, int read_only_fd) {
  if (!channel_.is_open() || told_segments_.contains({pool, generation})) return;
  // A copy: the original may be gone by the time there is room. None to be had: with the next news.
  UniqueFd copy(fcntl(read_only_fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.is_open()) return;
  told_segments_.emplace(pool, generation);
  SegmentNews news;
  news.generation = generation;
  pool.copy(news.pool, kPoolNameMax);
  push(bytes_of(news), std::move(copy));
}

void ControlLink::answer(uint32_t ticket, uint32_t status, const std::string& text) {
  auto asked = unanswered_.extract(ticket);
  if (!asked) return;
  Answer a;
  a.id = asked.mapped();
  a.status = status;
  text.copy(a.text, sizeof a.text - 1);
  push(bytes_of(a));
  answered_at_ = monotonic_now();
}

void ControlLink::answer_all_but(uint32_t ticket, uint32_t status) {
  for (const auto& [other, number] : std::map(unanswered_))
    if (other != ticket) answer(other, status, "");
}

// --- requests ------------------------------------------------------------------------------------

void ControlLink::read_channel() {
  Channel::Datagram datagram;
  for (int i = 0; i < kMostAtOnce && channel_.is_open(); ++i) {
    Channel::Got got = channel_.receive(datagram);
    if (got == Channel::Got::kNothing) return;
    if (got == Channel::Got::kGone) {
      loop_.forget(channel_.fd());
      channel_.close();
      if (!closing_) child_.signal(SIGKILL);  // without a channel it is of no use
      return;
    }
    if (kind_ == Kind::kWeb || datagram.bytes.size() < sizeof(Request)) continue;
    Request request;
    datagram.bytes.copy(reinterpret_cast<char*>(&request), sizeof request);
    request.pool[kPoolNameMax] = '\0';
    if (request.ask != ControlAsk::kTotals) {
      unanswered_[next_ticket_] = request.id;
      request.id = next_ticket_++;
    }
    calls_.on_request(request, datagram.bytes.substr(sizeof request));
  }
}

}  // namespace preforkd
