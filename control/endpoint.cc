#include "control/endpoint.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>

#include "base/log.h"

namespace preforkd {
namespace {

constexpr size_t kMaxBody = 64 * 1024;
constexpr uint64_t kMaxDiscarded = 256 * 1024 * 1024;  // of a body that was refused
constexpr unsigned kMaxClients = 256;
constexpr unsigned kCrowd = kMaxClients - 32;  // above this, the most silent client makes room
constexpr unsigned kSilenceSeconds = 30;

std::string_view header(MHD_Connection* connection, const char* name) {
  const char* value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  return value ? value : "";
}

int socket_of(MHD_Connection* connection) {
  return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

MHD_Result send_reply(MHD_Connection* connection, const HttpReply& reply) {
  std::unique_ptr<MHD_Response, decltype(&MHD_destroy_response)> response(
      MHD_create_response_from_buffer(reply.body.size(), const_cast<char*>(reply.body.data()),
                                      MHD_RESPMEM_MUST_COPY),
      MHD_destroy_response);
  if (!response) return MHD_NO;
  const std::pair<const char*, const char*> headers[] = {
      {"Content-Type", reply.content_type.c_str()},
      {"Cache-Control", "no-store"},
      {"X-Content-Type-Options", "nosniff"},
      {"Referrer-Policy", "no-referrer"},
      {"Allow", reply.allow.c_str()},
      {"Content-Security-Policy", reply.policy.c_str()}};
  for (auto [name, value] : headers)
    if (*value && MHD_add_response_header(response.get(), name, value) != MHD_YES) return MHD_NO;
  return MHD_queue_response(connection, reply.status, response.get());
}

HttpReply too_large() { return error_reply(413, "the body is above 64 KiB"); }

// The library takes no reply in the middle of a body, nor does it read on after an early one: a client
// that sends first and reads later would find its connection reset instead of the reason. So the
// reply goes around it, and what still comes of the body is thrown away until the client has read it.
void refuse_body_at_once(int socket) {
  std::string body = too_large().body;
  std::string text =
      "HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\nCache-Control: "
      "no-store\r\n"
      "Connection: close\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  [[maybe_unused]] ssize_t ignored =
      send(socket, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  shutdown(socket, SHUT_WR);
}

// No path of ours has anything to escape, and "/%00" is not "/".
size_t take_literally(void*, MHD_Connection*, char* text) { return std::strlen(text); }

void log_message(void*, const char* format, va_list arguments) {
  char text[512];
  int size = vsnprintf(text, sizeof text, format, arguments);
  if (size <= 0) return;
  std::string_view line(text, std::min<size_t>(static_cast<size_t>(size), sizeof text - 1));
  while (line.ends_with('\n')) line.remove_suffix(1);
  log_debug(std::string("http: ").append(line));
}

}  // namespace

struct Endpoint::Client {
  int socket;
  bool waits_for_daemon = false;
  bool leaving = false;
  std::list<Client>::iterator self{};
};

struct Endpoint::Exchange {
  MHD_Connection* connection;
  Client* client;
  std::string method, path;
  std::string body{};
  uint64_t body_size = 0;
  bool body_refused = false;
  uint32_t id = 0;  // while it waits for answer()
  std::optional<HttpReply> reply{};
};

struct Endpoint::Callbacks {
  static void on_connection(void* self, MHD_Connection* connection, void** context,
                            MHD_ConnectionNotificationCode what) {
    auto& endpoint = *static_cast<Endpoint*>(self);
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
      auto client = endpoint.clients_.insert(endpoint.clients_.end(), {socket_of(connection)});
      client->self = client;
      *context = &*client;
      endpoint.make_room();
    } else {
      endpoint.clients_.erase(static_cast<Client*>(*context)->self);
      endpoint.closed_one_ = true;
    }
  }

  // Once with the headers, once for each piece of the body, once at its end; and once more when it was
  // suspended at the end.
  static MHD_Result on_request(void* self, MHD_Connection* connection, const char* path,
                               const char* method, const char*, const char* data, size_t* size,
                               void** context) {
    auto& endpoint = *static_cast<Endpoint*>(self);
    try {
      if (*context)
        return endpoint.receive(connection, *static_cast<Exchange*>(*context), data, size);
      auto* client = static_cast<Client*>(
          MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context);
      endpoint.clients_.splice(endpoint.clients_.end(), endpoint.clients_, client->self);
      auto* exchange = new Exchange{connection, client, method, path};
      *context = exchange;
      std::string_view length = header(connection, "Content-Length");
      if (length.empty() || strtoull(length.data(), nullptr, 10) <= kMaxBody) return MHD_YES;
      // A client that expects "100 Continue" has sent nothing yet: there is nothing to throw away.
      if (!header(connection, "Expect").empty()) return send_reply(connection, too_large());
      exchange->body_refused = true;
      refuse_body_at_once(client->socket);
      return MHD_YES;
    } catch (const std::exception& error) {
      log_error(std::string("answer ") + method + " " + path + ": " + error.what());
      return MHD_NO;
    }
  }

  static void on_completed(void* self, MHD_Connection*, void** context,
                           MHD_RequestTerminationCode) {
    auto* exchange = static_cast<Exchange*>(*context);
    if (!exchange) return;
    static_cast<Endpoint*>(self)->waiting_.erase(exchange->id);
    delete exchange;
    *context = nullptr;
  }
};

Endpoint::Endpoint(EventLoop& loop, UniqueFd listener, OnCall on_call)
    : loop_(loop), on_call_(std::move(on_call)) {
  daemon_ = MHD_start_daemon(
      MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, nullptr, nullptr,
      Callbacks::on_request, this,  //
      MHD_OPTION_EXTERNAL_LOGGER, log_message, nullptr, MHD_OPTION_UNESCAPE_CALLBACK,
      take_literally, nullptr, MHD_OPTION_LISTEN_SOCKET, listener.get(),
      MHD_OPTION_CONNECTION_LIMIT, kMaxClients, MHD_OPTION_CONNECTION_TIMEOUT, kSilenceSeconds,
      MHD_OPTION_NOTIFY_CONNECTION, Callbacks::on_connection, this, MHD_OPTION_NOTIFY_COMPLETED,
      Callbacks::on_completed, this, MHD_OPTION_END);
  if (!daemon_) throw std::runtime_error("start the HTTP endpoint: libmicrohttpd refused");
  listener.release();  // it is the library's now, which closes it
  epoll_ = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
  loop_.watch(epoll_, EPOLLIN, [this](uint32_t) { run(); });
  run();
}

Endpoint::~Endpoint() {
  while (!waiting_.empty())
    answer(waiting_.begin()->first, error_reply(503, "the daemon ended before it answered"));
  loop_.cancel(timer_);
  loop_.forget(epoll_);
  MHD_stop_daemon(daemon_);
}

// A client that closes leaves a place, and the library looks at its listener again only in the next
// round: without that round a full house would stay closed.
void Endpoint::run() {
  do {
    closed_one_ = false;
    MHD_run(daemon_);
  } while (closed_one_);
  loop_.cancel(timer_);
  MHD_UNSIGNED_LONG_LONG milliseconds = 0;
  if (MHD_get_timeout(daemon_, &milliseconds) == MHD_YES)
    timer_ = loop_.after(milliseconds * kMillisecond, [this] { run(); });
}

// Anybody may connect, so that anybody could occupy all places; but whoever does loses the one that he
// uses least. Who waits for the daemon's answer keeps his.
void Endpoint::make_room() {
  if (clients_.size() <= kCrowd) return;
  auto silent = std::find_if(clients_.begin(), clients_.end(), [](const Client& client) {
    return !client.waits_for_daemon && !client.leaving;
  });
  if (silent == clients_.end()) return;
  silent->leaving = true;
  shutdown(silent->socket, SHUT_RDWR);  // the library sees the end, and closes
}

MHD_Result Endpoint::receive(MHD_Connection* connection, Exchange& exchange, const char* data,
                             size_t* size) {
  if (*size == 0) return exchange.body_refused ? MHD_NO : call(connection, exchange);
  exchange.body_size += *size;
  if (exchange.body_size > kMaxBody && !exchange.body_refused) {
    exchange.body_refused = true;
    exchange.body = {};
    refuse_body_at_once(exchange.client->socket);
  }
  if (exchange.body_size > kMaxDiscarded) return MHD_NO;
  if (!exchange.body_refused) exchange.body.append(data, *size);
  *size = 0;  // taken
  return MHD_YES;
}

MHD_Result Endpoint::call(MHD_Connection* connection, Exchange& exchange) {
  if (!exchange.reply) {
    exchange.id = next_id_++;
    HttpCall request{
        exchange.method, exchange.path, header(connection, "Accept"), exchange.body, {}};
    if (exchange.method != "GET") request.peer = peer_of(exchange.client->socket);
    try {
      exchange.reply = on_call_(request, exchange.id);
    } catch (const std::exception& error) {
      log_error("answer " + exchange.method + " " + exchange.path + ": " + error.what());
      exchange.reply = error_reply(500, error.what());
    }
    if (!exchange.reply) {
      waiting_[exchange.id] = &exchange;
      exchange.client->waits_for_daemon = true;
      MHD_suspend_connection(connection);
      return MHD_YES;
    }
  }
  return send_reply(connection, *exchange.reply);
}

void Endpoint::answer(uint32_t id, HttpReply reply) {
  auto found = waiting_.find(id);
  if (found == waiting_.end()) return;
  Exchange& exchange = *found->second;
  waiting_.erase(found);
  exchange.reply = std::move(reply);
  exchange.client->waits_for_daemon = false;
  MHD_resume_connection(exchange.connection);
  run();
}

}  // namespace preforkd
