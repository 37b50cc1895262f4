#include "daemon/control_link.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "base/log.h"
#include "base/refuse_rights.h"
#include "daemon/close_apart.h"
#include "daemon/listener.h"
#include "daemon/plan.h"
#include "ipc/protocol.h"
#include "shm/region.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kLookAgain = kSecond;
constexpr Backoff kRestart = {50 * kMillisecond, 2 * kSecond};  // nobody reads figures meanwhile
constexpr Nanoseconds kLongLife = 10 * kSecond;
constexpr Nanoseconds kStuckTooLong = 5 * kSecond;  // stopped by a signal, or told to end
constexpr Nanoseconds kHungUp = 1 * kSecond;        // its death is on its way, or not
constexpr Nanoseconds kPingAgain = 1 * kSecond;
constexpr int kSilence = 5;  // seconds after a ping
constexpr Nanoseconds kRequestsAgain = 100 * kMillisecond;
constexpr Nanoseconds kQuiet = 1 * kSecond;             // for control to pass on an answer
constexpr Nanoseconds kLongestQuestion = 60 * kSecond;  // then who waits is not waited for
constexpr uint32_t kConnects = EPOLLIN | EPOLLRDHUP | EPOLLET;
constexpr int kMostAtOnce = 64;        // datagrams read before others have their turn
constexpr size_t kMostWaiting = 4096;  // datagrams; a control that reads none of so many is stuck

constexpr char kMad[] = "asks for what there is not";
constexpr char kWasStopped[] = "has been stopped for 5 s";
constexpr char kHasNotEnded[] = "was told to end 5 s ago and has not";

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

ControlLink::ControlLink(EventLoop& loop, LogLink& log, Kind kind, Held executable,
                         UniqueFd listen_socket, SocketPath* path, EffectiveUser user,
                         std::string log_level, std::vector<std::string> hosts, Calls calls)
    : loop_(loop),
      log_(log),
      kind_(kind),
      executable_(std::move(executable)),
      listen_socket_(std::move(listen_socket)),
      path_(path),
      address_(to_string(local_address(listen_socket_.get()))),
      user_(std::move(user)),
      log_level_(std::move(log_level)),
      hosts_(std::move(hosts)),
      calls_(std::move(calls)) {
  watch_clients();
}

ControlLink::~ControlLink() {
  close_ends();
  loop_.forget(listen_socket_.get());
  if (kind_ == Kind::kFull) close_apart(std::move(listen_socket_));
}

// Each that connects, whether control takes it or not.
void ControlLink::watch_clients() {
  loop_.watch(listen_socket_.get(), kConnects, [this](uint32_t events) {
    if (events & (EPOLLHUP | EPOLLRDHUP)) return kill("has a listen socket that was shut down");
    has_come_ = true;
    if (news_.is_open() && !ping_timer_.is_set()) ping();
  });
}

// Why nobody can connect to it; "": they can; nothing: it cannot be known just now.
std::optional<std::string> ControlLink::trouble_with_socket() const {
  if (!takes_clients(listen_socket_.get())) return "was shut down";
  if (!path_ || !path_->is_ours()) return "";
  const auto is_there = path_->is_there();
  if (!is_there) return std::nullopt;
  return *is_there ? "" : "has lost its file";
}

// False: it cannot be had, and why is said once.
bool ControlLink::make_next_socket(const std::string& trouble) {
  try {
    ListenAddress address;
    if (path_) {
      address.kind = ListenAddress::Kind::kUnix;
      address.path = path_->path();
      calls_.make_folder();
    } else {
      std::string error;
      const auto parsed = parse_listen_address(address_, error);
      if (!parsed) throw std::runtime_error("listen " + address_ + ": " + error);
      address = *parsed;
      shutdown(listen_socket_.get(), SHUT_RDWR);  // it is in nobody's way, whoever has a copy
    }
    Listener made = Listener::open(address, kControlBacklog);
    if (path_) *path_ = made.path();
    next_socket_ = made.release_fd();
    refuse_rights(next_socket_.get());
    next_because_ = trouble;
    obstacle_.clear();
    return true;
  } catch (const std::exception& e) {
    if (std::exchange(obstacle_, e.what()) != e.what())
      log_warning(obstacle_ + ": control's socket " + trouble +
                  ", and comes back when that is gone");
    return false;
  }
}

void ControlLink::take_next_socket() {
  shutdown(listen_socket_.get(), SHUT_RDWR);
  loop_.forget(listen_socket_.get());
  if (path_) close_apart(std::move(listen_socket_));
  listen_socket_ = std::move(next_socket_);
  watch_clients();
  log_warning("control's socket " + address_ + " " + next_because_ + ": made anew",
              Event::kControlDied);
}

void ControlLink::look_at_socket() {
  look_timer_ = {};
  if (closing_ || renewing_ || renew_timer_.is_set() || !requests_.is_open()) return;
  const auto trouble = trouble_with_socket();
  if (trouble && trouble->empty()) return obstacle_.clear();
  if (!trouble || !make_next_socket(*trouble)) {
    look_timer_ = loop_.after(kLookAgain, [this] { look_at_socket(); });
    return;
  }
  log_warning("control's socket " + address_ + " " + *trouble);
  renew();
}

void ControlLink::ping() {
  has_come_ = false;
  wait_for_pong(kSilence);
  push(bytes_of(Ping{}));
}

// One by one: while the daemon stands still (a machine that is paused) control does, too.
void ControlLink::wait_for_pong(int seconds) {
  ping_timer_ = loop_.after(kSecond, [this, seconds] {
    if (seconds > 1) return wait_for_pong(seconds - 1);
    kill("has been silent for 5 s");
  });
}

void ControlLink::close_news() {
  ping_timer_ = {};
  greet_timer_ = {};
  if (news_.is_open() && std::exchange(waits_for_room_, false)) loop_.forget(news_.fd());
  news_.close();
}

void ControlLink::close_ends() {
  close_news();
  requests_timer_ = {};
  if (requests_.is_open()) loop_.forget(requests_.fd());
  requests_.close();
  waiting_.clear();  // with copies of segments
}

void ControlLink::start() {
  // Without its file it serves nobody, but reads the figures.
  const std::string trouble =
      next_socket_.is_open() ? "" : trouble_with_socket().value_or(std::string());
  if (!trouble.empty() && !make_next_socket(trouble) && !takes_clients(listen_socket_.get()))
    throw std::runtime_error(obstacle_);
  if (next_socket_.is_open()) take_next_socket();
  listen(listen_socket_.get(), kControlBacklog);  // whatever the one before has made of it
  auto [news, to_learn] = Channel::make_pair();
  auto [requests, to_ask] = make_message_pipe();
  // A burst of news (many pools at once) should fit; what does not waits here.
  int room = 1 << 20;
  setsockopt(news.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  Launch what;
  what.executable = executable_->path();
  what.image = executable_->to_execute();
  what.argv = {kind_ == Kind::kWeb ? "preforkd: control web" : "preforkd: control",
               protocol_option(shm::kLayoutVersion), "--log-level=" + log_level_};
  if (kind_ == Kind::kWeb) what.argv.emplace_back("--web");
  for (const std::string& host : hosts_) what.argv.push_back("--host=" + host);
  what.descriptors = {to_learn.get(), to_ask.get(), listen_socket_.get()};
  what.user = user_;
  what.keeps_signals_within = true;
  LogLink::NewPipe log = log_.open_pipe("");
  what.output = what.errors = log.write_end.get();
  child_ = launch(what);
  log_pipe_ = std::move(log.pipe);
  is_killed_ = false;
  started_at_ = monotonic_now();
  news_ = Channel(std::move(news));
  requests_ = Inbox(std::move(requests));
  watch_requests();
  waiting_.clear();
  told_segments_.clear();
  unanswered_.clear();
  calls_.greet(*this);
  loop_.change(listen_socket_.get(), kConnects);  // says again that somebody waits there
}

void ControlLink::watch_requests() {
  loop_.watch(requests_.fd(), EPOLLIN, [this](uint32_t) { read_requests(); });
}

LinkRecord ControlLink::record() const {
  LinkRecord r;
  r.web = kind_ == Kind::kWeb;
  r.pid = child_.pid;
  r.news = news_.fd();
  r.requests = requests_.fd();
  r.listen = (next_socket_.is_open() ? next_socket_ : listen_socket_).get();
  r.started_at = started_at_;
  r.stopped = kill_timer_.is_set();
  r.next_ticket = next_ticket_;
  r.unanswered = unanswered_;
  if (log_pipe_) r.log = log_pipe_->record();
  return r;
}

void ControlLink::resume(const LinkRecord& r) {
  if (r.pid <= 0) return start_again();
  child_ = existing_child(r.pid);
  log_pipe_ = log_.restore_pipe("", r.log);
  // waitpid() says of neither again.
  if (r.stopped || r.requests < 0)
    kill_after(kStuckTooLong, r.requests < 0 ? kHasNotEnded : kWasStopped);
  if (r.requests < 0) return;  // it is ending
  started_at_ = r.started_at;
  news_ = Channel(UniqueFd(r.news));
  requests_ = Inbox(UniqueFd(r.requests));
  next_ticket_ = r.next_ticket;
  unanswered_ = r.unanswered;
  watch_requests();
  calls_.greet(*this);
  ping();  // it may have clients
}

void ControlLink::renew(bool hands_in) {
  hands_in_ = hands_in && kind_ == Kind::kFull;
  renew_until_ = monotonic_now() + kLongestQuestion;
  renew_soon();
}

void ControlLink::renew_soon() {
  renew_timer_ = loop_.after(kQuiet, [this] { renew_when_quiet(); });
}

// A question that is on its way, or an answer that control has only just been given, would be lost with it.
void ControlLink::renew_when_quiet() {
  if (closing_ || !requests_.is_open()) return;  // the next one will be of the new binary
  read_requests();
  const Nanoseconds now = monotonic_now();
  const bool is_quiet = unanswered_.empty() && now >= answered_at_ + kQuiet;
  if (!is_quiet && now < renew_until_) return renew_soon();
  renewing_ = true;
  flush();
  if (!requests_.is_open()) return;
  hands_in_ ? close_news() : close_ends();
  if (!kill_timer_.is_set()) kill_after(kStuckTooLong, kHasNotEnded);
}

void ControlLink::kill(const std::string& why) {
  if (!is_running() || std::exchange(is_killed_, true)) return;
  log_error("control " + std::to_string(child_.pid) + " " + why + ": killed", Event::kControlDied);
  child_.signal(SIGKILL);
}

void ControlLink::kill_after(Nanoseconds delay, const std::string& why) {
  kill_timer_.set_after(delay, [this, why] { kill(why); });
}

void ControlLink::start_again() {
  try {
    start();
  } catch (const std::exception& e) {
    log_error(e.what());
    restart_timer_ = loop_.after(kRestart.after(++failures_), [this] { start_again(); });
  }
}

bool ControlLink::child_changed(pid_t pid, int status) {
  if (pid != child_.pid) return false;
  if (WIFSTOPPED(status) || WIFCONTINUED(status)) {
    if (!requests_.is_open()) return true;  // it has its time to end already
    kill_timer_.drop();
    if (WIFSTOPPED(status)) kill_after(kStuckTooLong, kWasStopped);
    return true;
  }
  auto failure = child_.failure();
  child_ = Child{};
  log_pipe_.reset();
  if (renewing_ && hands_in_) read_requests();  // its last words
  hands_in_ = false;
  close_ends();
  kill_timer_.drop();  // last: who reads the end of its words sets it
  if (closing_) return true;
  if (std::exchange(renewing_, false)) {
    start_again();
    return true;
  }
  if (failure) log_error(failure->text());
  log_warning(
      "control " + std::to_string(pid) + " died (" + ending_text(status) + "): starting another",
      Event::kControlDied);
  if (monotonic_now() - started_at_ >= kLongLife) failures_ = 0;
  restart_timer_ = loop_.after(kRestart.after(failures_++), [this] { start_again(); });
  return true;
}

void ControlLink::close() {
  closing_ = true;
  restart_timer_ = {};
  if (!news_.is_open()) return;
  flush();
  close_ends();
  if (is_running() && !kill_timer_.is_set()) kill_after(kStuckTooLong, kHasNotEnded);
}

void ControlLink::retire() {
  loop_.forget(listen_socket_.get());
  for (const UniqueFd* socket : {&listen_socket_, &next_socket_})
    if (socket->is_open()) shutdown(socket->get(), SHUT_RDWR);
  next_socket_.reset();
  close();
}

// --- news ----------------------------------------------------------------------------------------

void ControlLink::push(std::string bytes, UniqueFd copy) {
  if (!news_.is_open()) return;  // the next process is greeted with everything
  waiting_.push_back({std::move(bytes), std::move(copy)});
  flush();
  if (waiting_.size() > kMostWaiting) kill("does not read what it is told");
}

void ControlLink::flush() {
  bool is_full = false;
  while (!waiting_.empty() && !is_full) {
    News& next = waiting_.front();
    auto sent = news_.send(std::as_bytes(std::span(next.bytes)), {}, next.descriptor.get());
    is_full = sent == Channel::Sent::kFull;
    if (!is_full) waiting_.pop_front();  // sent, or nobody will ever read it
  }
  if (!news_.is_open() || is_full == waits_for_room_) return;
  waits_for_room_ = is_full;
  if (is_full)
    loop_.watch(news_.fd(), EPOLLOUT, [this](uint32_t) { flush(); });
  else
    loop_.forget(news_.fd());
}

void ControlLink::tell_daemon(const std::string& json) {
  push(with_header(ControlNews::kDaemon, json, ""));
}

void ControlLink::tell_pool(const std::string& json, const std::string& base) {
  push(with_header(ControlNews::kPool, json, base));
}

void ControlLink::tell_segment(const std::string& pool, uint32_t generation, int read_only_fd) {
  if (!news_.is_open() || told_segments_.contains({pool, generation})) return;
  // A copy: the original may be gone by the time there is room.
  UniqueFd copy(fcntl(read_only_fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.is_open()) {
    if (greet_timer_.is_set()) return;
    log_warning("copy the memory of generation " + std::to_string(generation) + " of pool " + pool +
                " for control: " + std::strerror(errno) + ": tried again");
    greet_timer_ = loop_.after(kSecond, [this] { calls_.greet(*this); });
    return;
  }
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

void ControlLink::read_requests() {
  std::string bytes;
  for (int i = 0; i < kMostAtOnce && requests_.is_open(); ++i) {
    if (!budget_.take(monotonic_now())) {
      loop_.forget(requests_.fd());
      requests_timer_ = loop_.after(kRequestsAgain, [this] { watch_requests(); });
      return;
    }
    Inbox::Got got = requests_.receive(bytes);
    if (got == Inbox::Got::kNothing) return;
    if (got == Inbox::Got::kGone) {
      close_ends();
      if (!closing_) kill_after(kHungUp, "has closed its channel");  // without it, it is of no use
      return;
    }
    Request request;
    if (bytes.size() < sizeof request) return kill(kMad);
    bytes.copy(reinterpret_cast<char*>(&request), sizeof request);
    request.pool[kPoolNameMax] = '\0';
    take(request, bytes.substr(sizeof request));
  }
}

void ControlLink::take(Request request, std::string bytes) {
  if (request.ask == ControlAsk::kPong) {
    ping_timer_ = {};
    if (request.set > 0 || has_come_) ping_timer_ = loop_.after(kPingAgain, [this] { ping(); });
    return;
  }
  if (request.ask < ControlAsk::kLimits || request.ask > ControlAsk::kTotals) return kill(kMad);
  if (kind_ == Kind::kWeb) return;
  const bool is_last = request.ask == ControlAsk::kTotals && request.set != 0;
  if (is_last && !(renewing_ && hands_in_)) return;  // who comes next reads all that it has read
  if (request.ask != ControlAsk::kTotals) {
    if (unanswered_.size() >= kMostUnanswered) return kill("asks more than is answered");
    unanswered_[next_ticket_] = request.id;
    request.id = next_ticket_++;
  }
  calls_.on_request(request, std::move(bytes));
}

}  // namespace preforkd
