#include "control/endpoint.h"

#include <poll.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/networks.h"
#include "base/refuse_rights.h"

namespace preforkd {
namespace {

constexpr size_t kMaxBody = 64 * 1024;
constexpr uint64_t kMaxDiscarded = 256 * 1024 * 1024;  // of a body that was refused
constexpr char kEnded[] = "the daemon ended before it answered";
constexpr int kAcceptedAtOnce = 16;
constexpr unsigned kLeaving = 64;  // have been sent away, and the library has not seen it yet
constexpr Nanoseconds kPause = 100 * kMillisecond;  // in accepting, where there is no descriptor
constexpr Nanoseconds kTurns = kMillisecond;        // before others are looked at

std::string_view header(MHD_Connection* connection, const char* name) {
  const char* value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  return value ? value : "";
}

// Where there are several, a browser and we might not mean the same one.
std::optional<std::string_view> host_of(MHD_Connection* connection) {
  std::pair<unsigned, std::string_view> found{};
  auto note = [](void* to, MHD_ValueKind, const char* name, const char* value) {
    constexpr std::string_view kHost = "host";
    if (strcasecmp(name, kHost.data()) != 0) return MHD_YES;
    auto& into = *static_cast<decltype(found)*>(to);
    ++into.first;
    into.second = value ? value : "";
    return MHD_YES;
  };
  MHD_get_connection_values(connection, MHD_HEADER_KIND, note, &found);
  return found.first == 1 ? std::optional(found.second) : std::nullopt;
}

int socket_of(MHD_Connection* connection) {
  return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

// Of TCP: where it comes from.
uint64_t owner_of(int socket, const Peer& peer) {
  if (peer.known) return peer.uid;
  SocketAddress address;
  address.length = sizeof address.storage;
  if (getpeername(socket, address.get(), &address.length) < 0) return 0;
  const auto ip = ip_of(address);
  return ip ? source_of(*ip) : 0;
}

HttpReply too_large() { return error_reply(413, "the body is above 64 KiB"); }

HttpReply crowded() {
  HttpReply reply = error_reply(503, "too many clients: try again");
  reply.again = true;
  return reply;
}

// For where the library takes no reply, and where nobody waits until it is read.
void send_raw(int socket, std::string_view status, std::string_view more_headers,
              const HttpReply& reply) {
  std::string text = "HTTP/1.1 ";
  text.append(status).append("\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n");
  text.append(more_headers).append("Connection: close\r\nContent-Length: ");
  text.append(std::to_string(reply.body.size())).append("\r\n\r\n").append(reply.body);
  [[maybe_unused]] ssize_t ignored =
      send(socket, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

// The library takes no reply in the middle of a body, nor does it read on after an early one: a client
// that sends first and reads later would find its connection reset instead of the reason. So the
// reply goes around it, and what still comes of the body is thrown away until the client has read it.
void refuse_body_at_once(int socket) {
  send_raw(socket, "413 Content Too Large", "", too_large());
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

struct Endpoint::Client : Guest {
  int socket = -1;
  Peer peer{};
  Nanoseconds until = 0;         // of its present step; 0: it is we who are slow
  Exchange* exchange = nullptr;  // null: between two requests
  bool gone = false;             // sent away: has no place any more
  std::list<Client>::iterator self{};
};

struct Endpoint::Exchange {
  MHD_Connection* connection;
  Client* client;
  std::string method, path;
  std::string body{};
  uint64_t body_size = 0;
  bool body_refused = false;
  bool queued = false;  // for its turn
  uint32_t id = 0;      // while it waits for answer()
  std::optional<HttpReply> reply{};
};

struct Endpoint::Callbacks {
  static void on_connection(void* self, MHD_Connection* connection, void** context,
                            MHD_ConnectionNotificationCode what) {
    auto& endpoint = *static_cast<Endpoint*>(self);
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
      auto client = endpoint.clients_.emplace(endpoint.clients_.end());
      client->self = client;
      client->socket = socket_of(connection);
      *context = &*client;
      endpoint.welcome(*client);
    } else {
      auto& client = *static_cast<Client*>(*context);
      if (!client.gone) endpoint.places_.leave(client);
      endpoint.clients_.erase(client.self);
      // Nothing wakes us for nobody.
      if (endpoint.clients_.empty()) endpoint.sweep_timer_ = {};
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
      auto* exchange = new Exchange{connection, client, method, path};
      client->exchange = exchange;
      *context = exchange;
      return endpoint.begin(connection, *exchange);
    } catch (const std::exception& error) {
      log_error(std::string("answer ") + method + " " + path + ": " + error.what());
      return MHD_NO;
    }
  }

  static void on_completed(void* self, MHD_Connection*, void** context,
                           MHD_RequestTerminationCode) {
    auto* exchange = static_cast<Exchange*>(*context);
    if (!exchange) return;
    auto& endpoint = *static_cast<Endpoint*>(self);
    Client& client = *exchange->client;
    endpoint.waiting_.erase(exchange->id);
    endpoint.leave_queue(*exchange);
    client.exchange = nullptr;
    if (!client.gone) {
      endpoint.places_.hold(client, 0);
      endpoint.begin_step(client);
    }
    delete exchange;
    *context = nullptr;
  }
};

Endpoint::Endpoint(EventLoop& loop, UniqueFd listener, Calls calls, Nanoseconds step)
    : loop_(loop), listener_(std::move(listener)), calls_(std::move(calls)), step_(step) {
  refuse_rights(listener_.get());
  errno = 0;
  daemon_ = MHD_start_daemon(
      MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0,
      nullptr, nullptr, Callbacks::on_request, this,  //
      MHD_OPTION_EXTERNAL_LOGGER, log_message, nullptr, MHD_OPTION_UNESCAPE_CALLBACK,
      take_literally, nullptr, MHD_OPTION_CONNECTION_LIMIT,
      static_cast<unsigned>(Places::kEntitled + Places::kOthers + kLeaving),
      MHD_OPTION_NOTIFY_CONNECTION, Callbacks::on_connection, this, MHD_OPTION_NOTIFY_COMPLETED,
      Callbacks::on_completed, this, MHD_OPTION_END);
  if (!daemon_ && errno) throw SysError("start the HTTP endpoint", errno);
  if (!daemon_) throw std::runtime_error("start the HTTP endpoint: libmicrohttpd refused");
  epoll_ = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
  loop_.watch(epoll_, EPOLLIN, [this](uint32_t) { run(); });
  loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept_some(); });
}

Endpoint::~Endpoint() {
  ending_ =
      true;  // who asks from now on does not wait any more: the library cannot end while one does
  while (!queues_.empty()) resume(*queues_.begin()->second.front(), error_reply(503, kEnded));
  while (!waiting_.empty()) resume(*waiting_.begin()->second, error_reply(503, kEnded));
  run();
  loop_.forget(epoll_);
  loop_.forget(listener_.get());
  MHD_stop_daemon(daemon_);
}

uint32_t Endpoint::clients() const {
  if (!clients_.empty()) return static_cast<uint32_t>(clients_.size());
  pollfd queue{listener_.get(), POLLIN, 0};
  return poll(&queue, 1, 0) > 0 ? 1 : 0;
}

void Endpoint::run() {
  MHD_run(daemon_);
  run_timer_ = {};
  MHD_UNSIGNED_LONG_LONG milliseconds = 0;
  if (MHD_get_timeout(daemon_, &milliseconds) == MHD_YES)
    run_timer_ = loop_.after(milliseconds * kMillisecond, [this] { run(); });
}

// --- places ----------------------------------------------------------------------------------------

void Endpoint::accept_some() {
  for (int i = 0; i < kAcceptedAtOnce; ++i) {
    SocketAddress from;
    from.length = sizeof from.storage;
    UniqueFd socket(
        accept4(listener_.get(), from.get(), &from.length, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.is_open()) {
      refuse_rights(socket.get());  // it was in the queue, perhaps, before the listener said so
      MHD_add_connection(daemon_, socket.release(), from.get(), from.length);
      continue;
    }
    if (errno == EAGAIN) break;
    if (!lacks_room(errno)) continue;
    loop_.change(listener_.get(), 0);
    accept_timer_ = loop_.after(kPause, [this] { loop_.change(listener_.get(), EPOLLIN); });
    break;
  }
  run();
}

void Endpoint::welcome(Client& client) {
  client.peer = peer_of(client.socket);
  client.owner = owner_of(client.socket, client.peer);
  client.entitled = calls_.is_entitled(client.peer);
  begin_step(client);
  places_.enter(client);
  make_room(client.entitled);
  if (!sweep_timer_.is_set()) sweep_later();
}

void Endpoint::begin_step(Client& client) { client.until = monotonic_now() + step_; }

void Endpoint::sweep_later() {
  sweep_timer_ = loop_.after(step_ / 6, [this] { sweep(); });
}

void Endpoint::make_room(bool entitled) {
  while (Guest* guest = places_.who_goes(entitled))
    send_away(static_cast<Client&>(*guest), "Retry-After: 1\r\n");
}

// With a parting word for who has not begun to be answered: nothing was done of what it may have asked.
void Endpoint::send_away(Client& client, std::string_view parting) {
  places_.leave(client);
  client.gone = true;
  client.until = 0;
  Exchange* exchange = client.exchange;
  const bool is_unanswered = !exchange || (!exchange->reply && !exchange->body_refused);
  if (!parting.empty() && is_unanswered)
    send_raw(client.socket, "503 Service Unavailable", parting, crowded());
  shutdown(client.socket, SHUT_RDWR);  // the library sees the end, and closes
  if (exchange && exchange->queued) resume(*exchange, crowded());
}

void Endpoint::sweep() {
  const Nanoseconds now = monotonic_now();
  for (Client& client : clients_)
    if (client.until != 0 && client.until <= now) send_away(client, "");
  run();
  if (!clients_.empty()) sweep_later();
}

// --- requests --------------------------------------------------------------------------------------

MHD_Result Endpoint::begin(MHD_Connection* connection, Exchange& exchange) {
  Client& client = *exchange.client;
  if (client.gone) return MHD_NO;
  places_.hear_of(client);
  begin_step(client);
  std::string_view length = header(connection, "Content-Length");
  if (length.empty() || strtoull(length.data(), nullptr, 10) <= kMaxBody) return MHD_YES;
  // A client that expects "100 Continue" has sent nothing yet: there is nothing to throw away.
  if (!header(connection, "Expect").empty()) {
    exchange.reply = too_large();
    return send_reply(connection, exchange);
  }
  exchange.body_refused = true;
  refuse_body_at_once(client.socket);
  return MHD_YES;
}

MHD_Result Endpoint::receive(MHD_Connection* connection, Exchange& exchange, const char* data,
                             size_t* size) {
  if (exchange.client->gone && !exchange.reply) return MHD_NO;
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
    exchange.client->until = 0;
    if (ending_)
      exchange.reply = error_reply(503, kEnded);
    else if (exchange.client->entitled)
      respond(exchange);
    else
      queue(exchange);
  }
  if (exchange.reply) return send_reply(connection, exchange);
  MHD_suspend_connection(connection);
  return MHD_YES;
}

// The reply, or the exchange waits for the daemon's answer.
void Endpoint::respond(Exchange& exchange) {
  Client& client = *exchange.client;
  HttpCall call{exchange.method, exchange.path, header(exchange.connection, "Accept"),
                exchange.body,   client.peer,   host_of(exchange.connection)};
  exchange.id = next_id_++;
  try {
    exchange.reply = calls_.on_call(call, exchange.id);
  } catch (const std::exception& error) {
    log_error("answer " + exchange.method + " " + exchange.path + ": " + error.what());
    exchange.reply = error_reply(500, error.what());
  }
  if (exchange.reply) return;
  waiting_[exchange.id] = &exchange;
  client.stays = true;
}

// The body stays where it is until the exchange is over, and is not copied.
MHD_Result Endpoint::send_reply(MHD_Connection* connection, Exchange& exchange) {
  HttpReply& reply = *exchange.reply;
  std::unique_ptr<MHD_Response, decltype(&MHD_destroy_response)> response(
      MHD_create_response_from_buffer(reply.body.size(), reply.body.data(), MHD_RESPMEM_PERSISTENT),
      MHD_destroy_response);
  if (!response) return MHD_NO;
  const std::pair<const char*, const char*> headers[] = {
      {"Content-Type", reply.content_type.c_str()},
      {"Cache-Control", "no-store"},
      {"X-Content-Type-Options", "nosniff"},
      {"Referrer-Policy", "no-referrer"},
      {"Allow", reply.allow.c_str()},
      {"Retry-After", reply.again ? "1" : ""},
      {"Content-Security-Policy", reply.policy.c_str()}};
  for (auto [name, value] : headers)
    if (*value && MHD_add_response_header(response.get(), name, value) != MHD_YES) return MHD_NO;
  Client& client = *exchange.client;
  if (client.gone) return MHD_NO;
  begin_step(client);
  places_.hold(client, reply.body.size());
  make_room(client.entitled);
  return MHD_queue_response(connection, reply.status, response.get());
}

void Endpoint::answer(uint32_t id, HttpReply reply) {
  auto found = waiting_.find(id);
  if (found == waiting_.end()) return;
  resume(*found->second, std::move(reply));
  run();
}

void Endpoint::resume(Exchange& exchange, HttpReply reply) {
  waiting_.erase(exchange.id);
  leave_queue(exchange);
  exchange.client->stays = false;
  exchange.reply = std::move(reply);
  MHD_resume_connection(exchange.connection);
}

// --- turns -----------------------------------------------------------------------------------------

void Endpoint::queue(Exchange& exchange) {
  queues_[exchange.client->owner].push_back(&exchange);
  exchange.queued = true;
  if (!turn_timer_.is_set()) turn_timer_ = loop_.after(0, [this] { take_turns(); });
}

void Endpoint::leave_queue(Exchange& exchange) {
  if (!exchange.queued) return;
  exchange.queued = false;
  auto queue = queues_.find(exchange.client->owner);
  std::erase(queue->second, &exchange);
  if (queue->second.empty()) queues_.erase(queue);
}

// One after the other of those who wait, each time of the next owner.
void Endpoint::take_turns() {
  const Nanoseconds end = monotonic_now() + kTurns;
  while (!queues_.empty()) {  // they may all have been sent away since the timer was set
    auto next = queues_.upper_bound(last_turn_);
    if (next == queues_.end()) next = queues_.begin();
    last_turn_ = next->first;
    Exchange& exchange = *next->second.front();
    leave_queue(exchange);
    respond(exchange);
    if (exchange.reply) MHD_resume_connection(exchange.connection);
    if (monotonic_now() >= end) break;
  }
  turn_timer_ = queues_.empty() ? EventLoop::Timer() : loop_.after(0, [this] { take_turns(); });
  run();
}

}  // namespace preforkd
