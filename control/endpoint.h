// The HTTP half of control: libmicrohttpd inside our own event loop (it starts no thread, and nothing wakes it
// while no client is there), with the accepting before it. Hands each complete request to a function and sends
// what that returns; a request that returns nothing yet waits until answer().
//
// Any local user may connect, and nobody of them is waited for: a client has kStep for each of its steps,
// places go by owner (places.h), and those who may not change things are answered in turn, one owner after the
// other, a millisecond's worth between two looks at everything else. Descriptors that a client attaches to its
// bytes are not taken (base/refuse_rights.h). Single threaded.
#pragma once

#include <microhttpd.h>

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/loop.h"
#include "control/places.h"
#include "control/routes.h"

namespace preforkd {

class Endpoint {
 public:
  // A request is to be whole, an answer read, or the next request begun, within this, or a sixth more.
  static constexpr Nanoseconds kStep = 30 * kSecond;

  struct Calls {
    // The reply, or nothing: answer() will be called with this id.
    std::function<std::optional<HttpReply>(const HttpCall&, uint32_t id)> on_call;
    std::function<bool(const Peer&)> is_entitled;  // to a place among those who may change things
  };

  // `listener` listens already and does not block; the loop outlives this. Throws std::runtime_error.
  Endpoint(EventLoop& loop, UniqueFd listener, Calls calls, Nanoseconds step = kStep);
  ~Endpoint();  // clients that still wait get 503
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  // Those that it has; with nobody, 1 if somebody waits to be accepted.
  uint32_t clients() const;

  // To the client that waits under this id; without effect if there is none.
  void answer(uint32_t id, HttpReply reply);

 private:
  struct Client;     // a connection
  struct Exchange;   // a request on it
  struct Callbacks;  // the library's C functions

  void accept_some();
  void welcome(Client& client);
  void send_away(Client& client, std::string_view parting);
  void make_room(bool entitled);
  void begin_step(Client& client);
  void sweep_later();
  void sweep();

  MHD_Result begin(MHD_Connection* connection, Exchange& exchange);
  MHD_Result receive(MHD_Connection* connection, Exchange& exchange, const char* data,
                     size_t* size);
  MHD_Result call(MHD_Connection* connection, Exchange& exchange);
  MHD_Result send_reply(MHD_Connection* connection, Exchange& exchange);
  void respond(Exchange& exchange);
  void resume(Exchange& exchange, HttpReply reply);
  void queue(Exchange& exchange);
  void leave_queue(Exchange& exchange);
  void take_turns();
  void run();

  EventLoop& loop_;
  UniqueFd listener_;
  const Calls calls_;
  const Nanoseconds step_;
  MHD_Daemon* daemon_ = nullptr;
  int epoll_ = -1;  // the library's
  EventLoop::Timer run_timer_, turn_timer_, sweep_timer_, accept_timer_;
  std::list<Client> clients_;
  Places places_;
  std::map<uint64_t, std::deque<Exchange*>> queues_;  // for a turn, by owner; none is empty
  uint64_t last_turn_ = 0;                            // whose it was
  std::map<uint32_t, Exchange*> waiting_;             // for an answer of the daemon
  uint32_t next_id_ = 1;
  bool ending_ = false;
};

}  // namespace preforkd
