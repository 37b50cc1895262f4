// preforkd/stream.hpp - what a handler in C++ is given: the connection as a Stream, the addresses of its ends, and what
// preforkd offers, the Host. Included by preforkd/handler.hpp.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <preforkd/handler.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace preforkd {

// ---- What a Stream throws. All of them say "read: why" or "write: why". After any but TooLong there is
// nothing sensible left to do with the connection than to return: how much of a read_exactly or of a write_all
// went through is not known.

// Something else than the three below: the system refused, as in "write: No buffer space available". A handler may throw
// it itself for what a client does wrong: leaving `serve`, it is no error in the log.
class StreamError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
// The stream's deadline is over.
class TimedOut : public StreamError {
 public:
  using StreamError::StreamError;
};
// The peer is gone: it has closed what we write to, or has reset the connection, or is out of reach. (That it
// has finished writing is none: that is the end of the stream.)
class Closed : public StreamError {
 public:
  using StreamError::StreamError;
};
// No delimiter within the limit. Nothing is consumed: see Stream::read_until.
class TooLong : public StreamError {
 public:
  using StreamError::StreamError;
};

// As syslog's.
enum class Level { kError = 3, kWarning = 4, kInfo = 6, kDebug = 7 };

// What preforkd offers: preforkd_host of the C header, where each is explained. A value that borrows it, valid as
// long as the process, in the supervisor and in every worker. From the thread that runs `start` or `serve` only;
// nothing blocks, allocates or throws. One that was made without a preforkd_host, as in a handler's own tests,
// does nothing.
class Host {
 public:
  Host() = default;
  explicit Host(const preforkd_host* host) : host_(host) {}

  const char* pool() const { return host_ ? host_->pool : ""; }  // its name
  // The pool's `settings` as a JSON object; "{}" without.
  const char* settings() const { return host_ ? host_->settings : "{}"; }

  // One line of log.
  void log(Level level, const char* text) const {
    if (host_) host_->log(static_cast<int>(level), text);
  }
  void log(Level level, const std::string& text) const { log(level, text.c_str()); }

  // ---- Of the connection in hand: they do nothing in `preload`.

  // What it is about, for `preforkctl workers`: at most 127 bytes of printable ASCII.
  void note(std::string_view text) const {
    if (!host_) return;
    char copy[128];
    copy[text.copy(copy, sizeof copy - 1)] = '\0';
    host_->note(copy);
  }
  // It may take so long from now on, even if `timeouts.connection` would end it before. This is about the worker,
  // which is killed at that time; Stream::set_deadline is about the client.
  void extend(std::chrono::milliseconds from_now) const {
    if (!host_) return;
    const auto longest = std::chrono::milliseconds(UINT32_MAX);
    const auto bounded = std::clamp(from_now, std::chrono::milliseconds(0), longest);
    host_->extend(static_cast<uint32_t>(bounded.count()));
  }
  // The worker leaves after it, and is replaced.
  void recycle() const {
    if (host_) host_->recycle();
  }

 private:
  const preforkd_host* host_ = nullptr;
};

// The address of one end of a connection. A value: it may outlive the connection.
class Address {
 public:
  Address() = default;  // of no family
  Address(const sockaddr* address, socklen_t length)
      : length_(std::min<socklen_t>(length, sizeof storage_)) {
    if (address) std::memcpy(&storage_, address, length_);
  }

  int family() const { return storage_.ss_family; }  // AF_INET, AF_INET6, AF_UNIX
  uint16_t port() const {                            // 0 of a Unix socket
    if (family() == AF_INET) return ntohs(as<sockaddr_in>().sin_port);
    return family() == AF_INET6 ? ntohs(as<sockaddr_in6>().sin6_port) : uint16_t{0};
  }
  // "127.0.0.1:5", "[::1]:5", "unix:/path", "unix:@abstract"; "unix:" of a Unix socket without a name, which
  // is what a client's mostly is.
  std::string to_string() const {
    char text[kLongest];
    print(text);
    return text;
  }
  // The same without allocating; always ends with a NUL.
  static constexpr size_t kLongest = sizeof(sockaddr_un) + sizeof "unix:";
  void print(char (&text)[kLongest]) const {
    char host[INET6_ADDRSTRLEN] = "?";
    text[0] = '\0';
    if (family() == AF_INET) {
      inet_ntop(AF_INET, &as<sockaddr_in>().sin_addr, host, sizeof host);
      std::snprintf(text, sizeof text, "%s:%u", host, unsigned{port()});
    } else if (family() == AF_INET6) {
      inet_ntop(AF_INET6, &as<sockaddr_in6>().sin6_addr, host, sizeof host);
      std::snprintf(text, sizeof text, "[%s]:%u", host, unsigned{port()});
    } else if (family() == AF_UNIX) {
      const size_t size = length_ - std::min<size_t>(length_, offsetof(sockaddr_un, sun_path));
      const char* path = as<sockaddr_un>().sun_path;
      const bool abstract = size > 0 && path[0] == '\0';
      std::snprintf(text, sizeof text, "unix:%s%.*s", abstract ? "@" : "",
                    static_cast<int>(size - abstract), path + abstract);
    }
  }

  const sockaddr* get() const { return &as<sockaddr>(); }
  socklen_t length() const { return length_; }

 private:
  template <class Kind>
  const Kind& as() const {
    return reinterpret_cast<const Kind&>(storage_);
  }

  sockaddr_storage storage_{};
  socklen_t length_ = 0;
};

// One connection, read through a buffer that all reads share, so that they can be mixed, and written without one.
// Handed to `serve`, in a worker; valid until that returns. For one thread. Whoever reads or writes fd() by itself
// must know that what was read ahead is here.
//
// End of stream means that the client has finished writing; it may still read, and be written to.
//
// The buffer comes from the heap at the first read that needs it, and goes with the Stream: 16 KiB, or up to twice
// the limit of a read_until. Of either only what a client really sends is touched, and becomes the worker's own.
class Stream {
 public:
  static constexpr size_t kBuffer = 16 * 1024;

  // preforkd makes it. A handler's own tests may, over one end of a socketpair: all three are borrowed.
  explicit Stream(const preforkd_connection& connection, Host host = {})
      : connection_(connection), host_(host) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // ---- Reading. Each blocks until it has what it promises, the stream ends, or the deadline is over; each
  // throws StreamError. A signal's handler that runs meanwhile changes nothing.

  // At least one byte and at most `size`, which is not 0; 0 at the end of the stream. From `size` = kBuffer on
  // the bytes go straight to `to`.
  size_t read_some(void* to, size_t size) {
    if (begin_ == end_) {
      if (size >= kBuffer) return receive(to, size);
      if (fill() == 0) return 0;
    }
    return take(static_cast<char*>(to), size);
  }

  // `size` bytes: less only at the end of the stream, and what there was then.
  size_t read_exactly(void* to, size_t size) {
    char* const bytes = static_cast<char*>(to);
    size_t have = take(bytes, size);
    while (have < size) {
      const bool direct = size - have >= kBuffer;
      const size_t got = direct ? receive(bytes + have, size - have) : fill();
      if (got == 0) break;
      have += direct ? got : take(bytes + have, size - have);
    }
    return have;
  }

  // Everything up to and with the delimiter, which is not empty: without it only at the end of the stream, and
  // what there was then; nothing if there was nothing. What it returns is valid until the next read.
  //
  // If the first `limit` bytes do not contain it all, delimiter included: TooLong, and nothing is consumed. Whoever
  // wants to go on reads them with another of these functions, or skips them.
  std::string_view read_until(std::string_view delimiter, size_t limit) {
    for (size_t searched = 0;;) {
      const std::string_view held = this->held().substr(0, limit);
      const size_t from = searched - std::min(searched, delimiter.size() - 1);
      const size_t found = held.find(delimiter, from);
      if (found != held.npos) return consume(found + delimiter.size());
      if (held.size() == limit)
        throw TooLong("read: no delimiter within " + std::to_string(limit) + " bytes");
      searched = held.size();
      if (fill() == 0) return consume(searched);
    }
  }
  std::string_view read_until(char delimiter, size_t limit) {
    return read_until(std::string_view(&delimiter, 1), limit);
  }

  // A line without its end, which is "\n" or "\r\n" and counts for the limit; the last one may lack it. Nothing at
  // the end of the stream. Otherwise as read_until.
  std::optional<std::string_view> read_line(size_t limit) {
    std::string_view line = read_until('\n', limit);
    if (line.empty()) return std::nullopt;
    if (line.back() == '\n') {
      line.remove_suffix(1);
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    }
    return line;
  }

  // Throws away everything up to and with the delimiter, however much that is; false if the stream ended before.
  bool skip_until(std::string_view delimiter) {
    for (;;) {
      const size_t found = held().find(delimiter);
      if (found != std::string_view::npos) return consume(found + delimiter.size()), true;
      begin_ = end_ - std::min(held().size(), delimiter.size() - 1);
      if (fill() == 0) return consume(held().size()), false;
    }
  }
  bool skip_until(char delimiter) { return skip_until(std::string_view(&delimiter, 1)); }

  // ---- Writing.

  // All of it, however long the client takes to read it (see set_deadline); it is with the kernel then, and not
  // necessarily with the client. Throws StreamError; no SIGPIPE.
  void write_all(const void* from, size_t size) {
    for (const char* bytes = static_cast<const char*>(from); size > 0;) {
      const ssize_t sent = send(fd(), bytes, size, flags("write") | MSG_NOSIGNAL);
      if (sent < 0) {
        recover("write", POLLOUT);
        continue;
      }
      bytes += sent;
      size -= static_cast<size_t>(sent);
    }
  }
  void write_all(std::string_view text) { write_all(text.data(), text.size()); }

  // ---- Deadlines. There is none at first: a client may take for ever, or until timeouts.connection ends it
  // together with the worker.

  // All that follows, reads and writes together, must be over so long from now, or throws TimedOut; until the next
  // call of either function. It is not put off by a client that sends a byte now and then. What needs no system call,
  // because it is in the buffer, is not looked at.
  void set_deadline(std::chrono::milliseconds from_now) {
    constexpr std::chrono::milliseconds never = std::chrono::hours(24 * 365), at_once{0};
    deadline_ = Clock::now() + std::clamp(from_now, at_once, never);
  }
  void clear_deadline() { deadline_.reset(); }

  // ---- Who is there.

  Address peer() const { return {connection_.peer, connection_.peer_length}; }
  Address local() const { return {connection_.local, connection_.local_length}; }
  // 1 for this worker's first connection, and so on.
  uint64_t number() const { return connection_.number; }
  // To set options of the socket; it stays preforkd's.
  int fd() const { return connection_.fd; }
  const Host& host() const { return host_; }

 private:
  using Clock = std::chrono::steady_clock;

  std::string_view held() const { return {buffer_.get() + begin_, end_ - begin_}; }
  std::string_view consume(size_t size) {
    const std::string_view taken = held().substr(0, size);
    begin_ += taken.size();
    return taken;
  }
  size_t take(char* to, size_t size) { return consume(size).copy(to, size); }

  // Appends to the buffer what there is; 0 at the end of the stream.
  size_t fill() {
    if (begin_ == end_) begin_ = end_ = 0;
    if (end_ == capacity_) make_room();
    const size_t got = receive(buffer_.get() + end_, capacity_ - end_);
    end_ += got;
    return got;
  }
  void make_room() {
    const size_t size = end_ - begin_;
    if (begin_ > 0) {
      std::memmove(buffer_.get(), buffer_.get() + begin_, size);
    } else {
      const size_t larger = capacity_ == 0 ? kBuffer : 2 * capacity_;
      std::unique_ptr<char[]> other(new char[larger]);  // not cleared: that would touch all of it
      if (size > 0) std::memcpy(other.get(), buffer_.get(), size);
      buffer_ = std::move(other);
      capacity_ = larger;
    }
    begin_ = 0;
    end_ = size;
  }

  size_t receive(void* to, size_t size) {
    for (;;) {
      const ssize_t got = recv(fd(), to, size, flags("read"));
      if (got >= 0) return static_cast<size_t>(got);
      recover("read", POLLIN);
    }
  }

  // Of the next system call: with a deadline it must not block. Throws TimedOut.
  int flags(const char* doing) const {
    if (!deadline_) return 0;
    if (Clock::now() >= *deadline_) throw TimedOut(std::string(doing) + ": deadline is over");
    return MSG_DONTWAIT;
  }

  // What is in errno is no reason to give up, or is thrown.
  void recover(const char* doing, short wanted) const {
    switch (const int error = errno) {
      case EINTR:
        return;
      case EAGAIN:
        return wait_for(wanted);
      case EPIPE:
      case ECONNRESET:
      case ECONNABORTED:
      case ETIMEDOUT:
      case EHOSTUNREACH:
      case ENETUNREACH:
        throw Closed(message(doing, error));
      default:
        throw StreamError(message(doing, error));
    }
  }
  static std::string message(const char* doing, int error) {
    return std::string(doing) + ": " + std::generic_category().message(error);
  }

  // Returns early at a signal, or late by less than a millisecond: whoever calls it looks again.
  void wait_for(short wanted) const {
    pollfd waiting{fd(), wanted, 0};
    int timeout = -1;
    if (deadline_) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline_ - Clock::now());
      timeout = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 3600 * 1000));
    }
    poll(&waiting, 1, timeout);
  }

  const preforkd_connection& connection_;
  Host host_;
  std::optional<Clock::time_point> deadline_;
  std::unique_ptr<char[]> buffer_;
  size_t capacity_ = 0;
  size_t begin_ = 0, end_ = 0;  // of what was read ahead, in the buffer
};

}  // namespace preforkd
