// The HTTP half of control: libmicrohttpd on a listening socket, inside our own event loop (it starts
// no thread, and nothing wakes it while no client is there). Hands each complete request to a
// function and sends what that returns; a request that returns nothing yet waits until answer().
#pragma once

#include <microhttpd.h>

#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/loop.h"
#include "control/routes.h"

namespace preforkd {

class Endpoint {
 public:
  // The reply, or nothing: answer() will be called with this id.
  using OnCall = std::function<std::optional<HttpReply>(const HttpCall&, uint32_t id)>;

  // `listener` listens already and does not block; the loop outlives this. Throws std::runtime_error.
  Endpoint(EventLoop& loop, UniqueFd listener, OnCall on_call);
  ~Endpoint();  // clients that still wait get 503
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  // To the client that waits under this id; without effect if there is none.
  void answer(uint32_t id, HttpReply reply);

 private:
  struct Client;     // a connection
  struct Exchange;   // a request on it
  struct Callbacks;  // the library's C functions

  MHD_Result receive(MHD_Connection* connection, Exchange& exchange, const char* data,
                     size_t* size);
  MHD_Result call(MHD_Connection* connection, Exchange& exchange);
  void run();
  void make_room();

  EventLoop& loop_;
  OnCall on_call_;
  MHD_Daemon* daemon_ = nullptr;
  int epoll_ = -1;  // the library's
  EventLoop::TimerId timer_{};
  std::list<Client> clients_;              // the one that was silent longest first
  std::map<uint32_t, Exchange*> waiting_;  // for an answer
  uint32_t next_id_ = 1;
  bool closed_one_ = false;
};

}  // namespace preforkd
