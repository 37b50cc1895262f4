#include "log/reader.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace preforkd {
namespace {

constexpr int kMostAtOnce = 64;  // datagrams read before others have their turn
constexpr int kMostOfPipe =
    64;  // reads of what a closed pipe still has: its 64 KiB, if they were written in small

template <Message T>
bool head_of(const std::string& bytes, T& head) {
  if (bytes.size() < sizeof head) return false;
  std::memcpy(&head, bytes.data(), sizeof head);
  return true;
}

}  // namespace

Reader::Reader(Writer& writer, UniqueFd news, UniqueFd pongs)
    : writer_(writer), news_(std::move(news)), pongs_(std::move(pongs)) {
  loop_.watch(news_.fd(), EPOLLIN, [this](uint32_t) { read_news(); });
}

void Reader::run() { loop_.run(); }

void Reader::end_if_over() {
  if (!news_.is_open() && pipes_.empty()) loop_.stop();
}

void Reader::read_news() {
  Channel::Datagram datagram;
  for (int i = 0; i < kMostAtOnce && news_.is_open(); ++i) {
    Channel::Got got = news_.receive(datagram);
    if (got == Channel::Got::kNothing) return;
    if (got == Channel::Got::kMessage && take(datagram)) continue;
    loop_.forget(news_.fd());
    news_.close();
  }
  end_if_over();
}

bool Reader::take(Channel::Datagram& datagram) {
  LogSignal signal;
  LogNewsLine line;
  LogNewsPipe pipe;
  if (!head_of(datagram.bytes, signal)) return false;
  switch (signal.kind) {
    case LogNews::kPing:
      pongs_.send_struct(LogPong{});
      return true;
    case LogNews::kRetire:
      while (!pipes_.empty()) close_pipe(pipes_.begin()->first);
      return false;
    case LogNews::kLine:
      if (!head_of(datagram.bytes, line)) return false;
      line.pool[kPoolNameMax] = '\0';
      take_line(line, std::string_view(datagram.bytes).substr(sizeof line));
      return true;
    case LogNews::kPipe:
    case LogNews::kOver:
      if (!head_of(datagram.bytes, pipe)) return false;
      pipe.pool[kPoolNameMax] = '\0';
      if (pipe.kind == LogNews::kPipe && datagram.descriptor.is_open())
        open_pipe(pipe, std::move(datagram.descriptor));
      if (auto found = pipes_.find(pipe.id); pipe.kind == LogNews::kOver && found != pipes_.end()) {
        for (int i = 0; i < kMostOfPipe && read_pipe(found->second) == Left::kMore; ++i) {
        }
        close_pipe(pipe.id);
      }
      return true;
  }
  return false;
}

// Lines that concern a pool are the daemon's all the same.
void Reader::take_line(const LogNewsLine& head, std::string_view text) {
  writer_.count_lost(kOfDaemon, head.lost);
  Entry entry;
  entry.level = static_cast<LogLevel>(head.level);
  entry.pool = head.pool;
  entry.worker = head.worker;
  entry.text = text;
  entry.event = head.event;
  writer_.put(kOfDaemon, std::move(entry));
}

void Reader::open_pipe(const LogNewsPipe& what, UniqueFd fd) {
  Pipe& pipe = pipes_[what.id];
  if (pipe.fd.is_open()) return;
  pipe.fd = std::move(fd);
  pipe.source = *what.pool ? what.pool : kOfControl;
  loop_.watch(pipe.fd.get(), EPOLLIN, [this, id = what.id](uint32_t) {
    if (read_pipe(pipes_.at(id)) != Left::kEnd) return;
    close_pipe(id);
    end_if_over();
  });
}

// Once: the others have their turn.
Reader::Left Reader::read_pipe(Pipe& pipe) {
  char bytes[64 * 1024];
  ssize_t n;
  do n = read(pipe.fd.get(), bytes, sizeof bytes);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return Left::kNothing;
  if (n <= 0) return Left::kEnd;
  pipe.lines.add(std::string_view(bytes, static_cast<size_t>(n)),
                 [&](std::string line) { put(pipe, std::move(line)); });
  return Left::kMore;
}

void Reader::close_pipe(uint32_t id) {
  auto found = pipes_.find(id);
  Pipe& pipe = found->second;
  pipe.lines.end([&](std::string line) { put(pipe, std::move(line)); });
  say_left_out(pipe.source);
  loop_.forget(pipe.fd.get());
  pipes_.erase(found);
}

void Reader::leave_out(const std::string& name, Source& source) {
  ++source.left_out;
  if (!source.timer.is_set())
    source.timer = loop_.after(kSecond, [this, name] { say_left_out(name); });
}

void Reader::say_left_out(const std::string& name) {
  Source& source = sources_[name];
  source.timer = {};
  writer_.count_lost(name, std::exchange(source.left_out, 0));
}

// Whose it is, the pipe says; whatever the line says.
void Reader::put(const Pipe& pipe, std::string line) {
  Source& source = sources_[pipe.source];
  if (!source.budget.take(monotonic_now(), line.size() + 1)) return leave_out(pipe.source, source);
  LogLine own{};
  Entry entry;
  if (pipe.source != kOfControl) entry.pool = pipe.source;
  entry.is_raw = !own_line_from(line, own);
  if (entry.is_raw) {
    entry.text = std::move(line);
  } else {
    entry.level = own.level;
    entry.worker = own.worker;
    entry.text = own.text;
  }
  if (pipe.source == kOfControl) entry.text.insert(0, "control: ");  // nor is it the daemon's
  writer_.put(pipe.source, std::move(entry));
}

}  // namespace preforkd
