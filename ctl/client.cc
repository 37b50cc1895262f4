#include "ctl/client.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/fd.h"
#include "ctl/tables.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kForAnAnswer = 30 * kSecond;  // where it waits for nothing that takes longer

std::string joined(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) out += (out.empty() ? "" : "\n") + line;
  return out;
}

// Everybody can make a folder in /tmp: one that is another user's, or that others can write to, is
// not where a daemon of this user put its socket.
bool is_a_strangers(const std::string& folder, uid_t uid) {
  struct stat status {};
  if (lstat(folder.c_str(), &status) != 0) return false;
  return !S_ISDIR(status.st_mode) || status.st_uid != uid ||
         (status.st_mode & (S_IWGRP | S_IWOTH)) != 0;
}

// What became of a question after its connection was there.
enum class End {
  kAnswered,
  kNotSent,   // it cannot have been heard whole
  kNoAnswer,  // closed without a byte
  kCut,       // ... or in the midst of it
  kNotHttp,
  kTooLong,
  kTooLate,
};

const char* explain(End end) {
  switch (end) {
    case End::kAnswered:
      return "";
    case End::kNotSent:
    case End::kNoAnswer:
      return "the daemon closed the connection before it had answered";
    case End::kCut:
      return "the daemon's answer was cut short";
    case End::kNotHttp:
      return "what listens there does not speak HTTP";
    case End::kTooLong:
      return "the daemon's answer is longer than 64 MiB";
    case End::kTooLate:
      return "the daemon did not answer in time";
  }
  return "";
}

// Whether it cannot have been carried out, or may be carried out twice: to look, and to set limits to what they
// are set to. A reload, recycling, drain or stop is done once; where its connection ended before an answer came,
// nobody knows whether it was.
bool may_ask_again(const std::string& method, End end) {
  return end == End::kNotSent || (end == End::kNoAnswer && (method == "GET" || method == "PATCH"));
}

// One question and its answer, on a connection of their own: as much of HTTP/1.1 as that takes. The socket
// blocks, each time until the deadline at most: so connect(2) waits in order where the queue of the listener
// is full, instead of finding it full again and again.
class Conversation {
 public:
  static constexpr Nanoseconds kNever = INT64_MAX;

  // 0, or why not: an errno. EAGAIN: the queue was full all the time.
  int connect(const std::string& path, Nanoseconds deadline);
  End hold(const std::string& request, Nanoseconds deadline);

  long status() const { return status_; }
  bool is_to_come_again() const { return !field("retry-after").empty(); }
  std::string take_body() { return std::move(body_); }

 private:
  bool set_limit(int option, Nanoseconds deadline);
  bool send(std::string_view text, Nanoseconds deadline);
  ssize_t receive(char* into, size_t size, Nanoseconds deadline);
  End read_head(Nanoseconds deadline);
  End read_body(Nanoseconds deadline);
  std::string field(std::string_view name) const;

  UniqueFd fd_;
  std::string head_, body_;  // the names of fields in lower case
  long status_ = 0;
};

int Conversation::connect(const std::string& path, Nanoseconds deadline) {
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  if (path.size() >= sizeof to.sun_path) return ENAMETOOLONG;
  path.copy(to.sun_path, path.size());
  fd_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd_.is_open()) return errno;
  while (set_limit(SO_SNDTIMEO, deadline)) {
    if (::connect(fd_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0) return 0;
    if (errno != EINTR) return errno;
  }
  return EAGAIN;
}

// False: no time is left.
bool Conversation::set_limit(int option, Nanoseconds deadline) {
  timeval limit{};  // none
  if (deadline != kNever) {
    const Nanoseconds now = monotonic_now();
    if (now >= deadline) return false;
    const Nanoseconds left = std::max<Nanoseconds>(deadline - now, kMillisecond);
    limit = {static_cast<time_t>(left / kSecond), static_cast<suseconds_t>(left % kSecond / 1000)};
  }
  return setsockopt(fd_.get(), SOL_SOCKET, option, &limit, sizeof limit) == 0;
}

bool Conversation::send(std::string_view text, Nanoseconds deadline) {
  while (!text.empty() && set_limit(SO_SNDTIMEO, deadline)) {
    const ssize_t sent = ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    if (sent > 0) text.remove_prefix(static_cast<size_t>(sent));
    if (sent < 0 && errno != EINTR) return false;
  }
  return text.empty();
}

// Bytes; 0: the end, of whatever kind; -1: the deadline has passed.
ssize_t Conversation::receive(char* into, size_t size, Nanoseconds deadline) {
  while (set_limit(SO_RCVTIMEO, deadline)) {
    const ssize_t got = recv(fd_.get(), into, size, 0);
    if (got >= 0) return got;
    if (errno == EAGAIN) return -1;
    if (errno != EINTR) return 0;
  }
  return -1;
}

// An answer may lie there though the question could not be sent: that there is no place.
End Conversation::hold(const std::string& request, Nanoseconds deadline) {
  const bool sent = send(request, deadline);
  End end = read_head(deadline);
  if (end == End::kAnswered) end = read_body(deadline);
  return end == End::kNoAnswer && !sent ? End::kNotSent : end;
}

End Conversation::read_head(Nanoseconds deadline) {
  constexpr std::string_view kBegin = "HTTP/1.", kEnd = "\r\n\r\n";
  constexpr size_t kLongest = 64 * 1024;
  char buffer[16 * 1024];
  size_t end = head_.npos;
  while (end == head_.npos) {
    const ssize_t got = receive(buffer, sizeof buffer, deadline);
    if (got < 0) return End::kTooLate;
    if (got == 0) return head_.empty() ? End::kNoAnswer : End::kCut;
    head_.append(buffer, static_cast<size_t>(got));
    const size_t known = std::min(head_.size(), kBegin.size());
    if (head_.compare(0, known, kBegin, 0, known) != 0 || head_.size() > kLongest)
      return End::kNotHttp;
    end = head_.find(kEnd);
  }
  body_ = head_.substr(end + kEnd.size());
  head_.resize(end + 2);
  for (char& c : head_)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  status_ = std::atol(head_.c_str() + std::min(head_.find(' '), head_.size()));
  return End::kAnswered;
}

End Conversation::read_body(Nanoseconds deadline) {
  const std::string length = field("content-length");  // where there is none: until the end
  const size_t size = length.empty() ? SIZE_MAX : std::strtoull(length.c_str(), nullptr, 10);
  char buffer[64 * 1024];
  while (body_.size() < size) {
    const ssize_t got = receive(buffer, sizeof buffer, deadline);
    if (got < 0) return End::kTooLate;
    if (got == 0) return length.empty() ? End::kAnswered : End::kCut;
    body_.append(buffer, static_cast<size_t>(got));
    if (body_.size() > Client::kMaxAnswer) return End::kTooLong;
  }
  return End::kAnswered;
}

// What stands in it; "" where it is not there.
std::string Conversation::field(std::string_view name) const {
  const std::string line = "\r\n" + std::string(name) + ":";
  size_t at = head_.find(line);
  if (at == head_.npos) return "";
  at = std::min(head_.find_first_not_of(" \t", at + line.size()), head_.size());
  return head_.substr(at, head_.find("\r\n", at) - at);
}

// The daemon's own reason, or what little is known.
std::string refusal(long http_status, const std::string& answer) {
  auto document = Json::parse(answer, nullptr, /*allow_exceptions=*/false);
  std::string reason = member_text(document, "error");
  return reason.empty() ? "the daemon answered HTTP " + std::to_string(http_status) : reason;
}

}  // namespace

NoDaemon::NoDaemon(const std::vector<std::string>& lines) : std::runtime_error(joined(lines)) {}

std::vector<std::string> usual_sockets(unsigned uid, const GetVariable& variable) {
  constexpr char kSocket[] = "/control.sock", kSystemFolder[] = "/run/preforkd";
  std::vector<std::string> sockets;
  auto add = [&](const std::string& folder) { sockets.push_back(folder + kSocket); };
  auto value = [&](const char* name) {
    const char* text = variable(name);
    return std::string(text ? text : "");
  };
  // systemd separates several directories by colons; the daemon's is the first.
  std::string given = value("RUNTIME_DIRECTORY"), session = value("XDG_RUNTIME_DIR");
  given.resize(std::min(given.size(), given.find(':')));
  if (!given.empty()) add(given);
  if (uid != 0 && !session.empty()) add(session + "/preforkd");
  std::string own = "/tmp/preforkd-" + std::to_string(uid);
  if (uid != 0 && !is_a_strangers(own, uid)) add(own);
  if (given != kSystemFolder) add(kSystemFolder);
  return sockets;
}

std::optional<std::string> Client::get_if_there(const std::string& path) const {
  std::vector<std::string> complaints;
  return try_ask({"GET", path, {}}, complaints);
}

std::string Client::ask(const Question& question) const {
  std::vector<std::string> complaints;
  auto answer = try_ask(question, complaints);
  if (!answer) throw NoDaemon(complaints);
  return *answer;
}

struct Client::Outcome {
  int not_connected = 0;  // errno; 0: it did connect
  bool again = false;     // and is worth asking again
  std::string trouble = "";
  std::string answer = "";
};

std::optional<std::string> Client::try_ask(const Question& question,
                                           std::vector<std::string>& complaints) const {
  constexpr Nanoseconds kFirstPause = 10 * kMillisecond, kLongestPause = 250 * kMillisecond;
  const Nanoseconds deadline = monotonic_now() + kPatience;
  for (const std::string& socket : sockets_) {
    for (Nanoseconds pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
      Outcome outcome = ask_once(question, socket, deadline);
      if (outcome.again && monotonic_now() + pause < deadline) {
        std::this_thread::sleep_for(std::chrono::nanoseconds(pause));
        continue;
      }
      if (outcome.not_connected != 0) {
        complaints.push_back("no daemon at " + socket + ": " +
                             (outcome.not_connected == EAGAIN
                                  ? "its queue of connections stayed full"
                                  : std::strerror(outcome.not_connected)));
        break;
      }
      if (!outcome.trouble.empty()) throw std::runtime_error(outcome.trouble);
      return std::move(outcome.answer);
    }
  }
  return std::nullopt;
}

Client::Outcome Client::ask_once(const Question& question, const std::string& socket,
                                 Nanoseconds deadline) const {
  Conversation conversation;
  Outcome outcome;
  outcome.not_connected = conversation.connect(socket, deadline);
  if (outcome.not_connected != 0) return outcome;
  std::string request = question.method + ' ' + question.path +
                        " HTTP/1.1\r\nHost: preforkd\r\nUser-Agent: preforkctl\r\n"
                        "Connection: close\r\n";
  if (question.method != "GET")
    request += "Content-Type: application/json\r\nContent-Length: " +
               std::to_string(question.body.size()) + "\r\n";
  const End end = conversation.hold(
      request + "\r\n" + question.body,
      question.method == "POST" ? Conversation::kNever : monotonic_now() + kForAnAnswer);
  if (end != End::kAnswered) {
    outcome.again = may_ask_again(question.method, end);
    outcome.trouble = question.method + ' ' + question.path + ": " + explain(end);
    return outcome;
  }
  outcome.answer = conversation.take_body();
  if (const long status = conversation.status(); status < 200 || status > 299) {
    outcome.again = status == 503 && conversation.is_to_come_again();
    outcome.trouble = refusal(status, outcome.answer);
  }
  return outcome;
}

std::string pool_path(std::string_view pool, std::string_view rest) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string path = "/v1/pools/";
  for (char c : pool) {
    const auto byte = static_cast<unsigned char>(c);
    if (kPlain.find(c) != kPlain.npos)
      path += c;
    else
      path.append("%").append(1, kHex[byte >> 4]).append(1, kHex[byte & 15]);
  }
  return path.append(rest);
}

}  // namespace preforkd
