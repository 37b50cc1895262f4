#include "control/client.h"

#include <curl/curl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>

#include "control/tables.h"

namespace preforkd {
namespace {

constexpr long kConnectSeconds = 5;
constexpr long kAnswerSeconds = 30;  // for what the daemon answers without waiting for anything

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

size_t append_bounded(char* data, size_t, size_t size, void* to) {
  auto& answer = *static_cast<std::string*>(to);
  if (size > Client::kMaxAnswer - answer.size()) return 0;
  answer.append(data, size);
  return size;
}

std::string explain(CURLcode code) {
  struct Explanation {
    CURLcode code;
    const char* text;
  };
  constexpr Explanation kExplanations[] = {
      {CURLE_GOT_NOTHING, "the daemon closed the connection before it had answered"},
      {CURLE_RECV_ERROR, "the daemon closed the connection before it had answered"},
      {CURLE_SEND_ERROR, "the daemon closed the connection before it had answered"},
      {CURLE_PARTIAL_FILE, "the daemon's answer was cut short"},
      {CURLE_WRITE_ERROR, "the daemon's answer is longer than 64 MiB"},
      {CURLE_OPERATION_TIMEDOUT, "the daemon did not answer in time"},
      {CURLE_UNSUPPORTED_PROTOCOL, "what listens there does not speak HTTP"},
      {CURLE_WEIRD_SERVER_REPLY, "what listens there does not speak HTTP"},
  };
  for (const Explanation& e : kExplanations)
    if (e.code == code) return e.text;
  return curl_easy_strerror(code);
}

// One request, as libcurl knows it.
class Transfer {
 public:
  Transfer()
      : curl_(curl_easy_init(), curl_easy_cleanup),
        headers_(curl_slist_append(nullptr, "Content-Type: application/json"),
                 curl_slist_free_all) {
    if (!curl_ || !headers_) throw std::bad_alloc();
    set(CURLOPT_HTTP_VERSION, long{CURL_HTTP_VERSION_1_1});
    set(CURLOPT_USERAGENT, "preforkctl");
    set(CURLOPT_PROXY, "");  // whatever the environment says
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  }

  template <class Value>
  void set(CURLoption option, Value value) {
    if (CURLcode code = curl_easy_setopt(curl_.get(), option, value); code != CURLE_OK)
      throw std::runtime_error(std::string("set up libcurl: ") + curl_easy_strerror(code));
  }

  void set_json(const std::string& body) {
    set(CURLOPT_HTTPHEADER, headers_.get());
    set(CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
    set(CURLOPT_COPYPOSTFIELDS, body.c_str());
  }

  CURLcode perform() { return curl_easy_perform(curl_.get()); }

  // Nothing if it did connect, whatever became of it then.
  std::optional<std::string> why_not_connected(CURLcode code) {
    if (code == CURLE_COULDNT_RESOLVE_HOST) return std::strerror(ENAMETOOLONG);
    if (code != CURLE_COULDNT_CONNECT) return std::nullopt;
    long error = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_OS_ERRNO, &error);
    // libcurl has no errno for EAGAIN, with which a Unix socket says that its queue is full.
    return error == 0 ? "its queue of connections is full" : std::strerror(static_cast<int>(error));
  }

  long http_status() {
    long status = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &status);
    return status;
  }

 private:
  std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl_;
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers_;
};

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

std::optional<std::string> Client::try_ask(const Question& question,
                                           std::vector<std::string>& complaints) const {
  std::string url = "http://preforkd" + question.path, answer;
  Transfer transfer;
  transfer.set(CURLOPT_URL, url.c_str());
  transfer.set(CURLOPT_PATH_AS_IS, 1L);
  transfer.set(CURLOPT_CUSTOMREQUEST, question.method.c_str());
  transfer.set(CURLOPT_TIMEOUT, question.method == "POST" ? 0L : kAnswerSeconds);
  if (question.method != "GET") transfer.set_json(question.body);
  transfer.set(CURLOPT_WRITEFUNCTION, append_bounded);
  transfer.set(CURLOPT_WRITEDATA, &answer);

  for (const std::string& socket : sockets_) {
    transfer.set(CURLOPT_UNIX_SOCKET_PATH, socket.c_str());
    CURLcode code = transfer.perform();
    if (auto reason = transfer.why_not_connected(code)) {
      complaints.push_back("no daemon at " + socket + ": " + *reason);
      continue;
    }
    if (code != CURLE_OK)
      throw std::runtime_error(question.method + ' ' + question.path + ": " + explain(code));
    if (long status = transfer.http_status(); status < 200 || status > 299)
      throw std::runtime_error(refusal(status, answer));
    return answer;
  }
  return std::nullopt;
}

std::string pool_path(std::string_view pool, std::string_view rest) {
  std::unique_ptr<char, decltype(&curl_free)> name(
      curl_easy_escape(nullptr, pool.data(), static_cast<int>(pool.size())), curl_free);
  if (!name) throw std::bad_alloc();
  return std::string("/v1/pools/") + name.get() + std::string(rest);
}

}  // namespace preforkd
