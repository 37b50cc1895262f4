// worker/client_end: what the kernel knows of a connection's end, in each way in which one can end.
#include "worker/client_end.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "tests/unit/unit_test.h"

using namespace preforkd;

void add_client_end_tests();

namespace {

// The two ends of a connection over loopback, or of a Unix one.
struct Ends {
  UniqueFd client, ours;

  void write(int bytes = 1) const {
    static const char kZeros[65536] = {};
    for (; bytes > 0; bytes -= static_cast<int>(sizeof kZeros))
      send(ours.get(), kZeros, std::min<size_t>(sizeof kZeros, static_cast<size_t>(bytes)),
           MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  void client_reads() const {
    char byte;
    CU_ASSERT_EQUAL_FATAL(recv(client.get(), &byte, 1, 0), 1);
  }
  void finish_writing() const { shutdown(ours.get(), SHUT_WR); }
  void client_finishes_writing() const { shutdown(client.get(), SHUT_WR); }
  void client_closes() { client.reset(); }
  void client_resets() {
    const linger at_once{1, 0};
    setsockopt(client.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    client.reset();
  }
  // What its end has done has come to us.
  void wait_for(short events) const {
    pollfd ready{ours.get(), events, 0};
    CU_ASSERT_EQUAL(poll(&ready, 1, static_cast<int>(unit::kPatience / kMillisecond)), 1);
  }
};

Ends connected(int family) {
  Ends ends;
  if (family == AF_UNIX) {
    int pair[2];
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ends.client.reset(pair[0]);
    ends.ours.reset(pair[1]);
    return ends;
  }
  sockaddr_storage any{};
  socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  any.ss_family = static_cast<sa_family_t>(family);
  if (family == AF_INET)
    reinterpret_cast<sockaddr_in&>(any).sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  else
    reinterpret_cast<sockaddr_in6&>(any).sin6_addr = in6addr_loopback;
  auto* address = reinterpret_cast<sockaddr*>(&any);
  const UniqueFd listening(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CU_ASSERT_EQUAL_FATAL(bind(listening.get(), address, size), 0);
  CU_ASSERT_EQUAL_FATAL(listen(listening.get(), 1), 0);
  getsockname(listening.get(), address, &size);
  ends.client.reset(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CU_ASSERT_EQUAL_FATAL(connect(ends.client.get(), address, size), 0);
  ends.ours.reset(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
  CU_ASSERT_FATAL(ends.ours.is_open());
  return ends;
}

struct Way {
  const char* what;
  void (*happens)(Ends&);
  ClientEnd end;
};
constexpr ClientEnd kNot = ClientEnd::kNot, kFinished = ClientEnd::kFinished,
                    kGone = ClientEnd::kGone;

void expect_ways(int family, std::initializer_list<Way> ways) {
  for (const Way& way : ways) {
    Ends ends = connected(family);
    way.happens(ends);
    const ClientEnd end = client_end(ends.ours.get());
    if (end != way.end) std::printf("\n  %s: %d\n", way.what, static_cast<int>(end));
    CU_ASSERT(end == way.end);
  }
}

void tcp() {
  const auto over = [](const Ends& ends) { ends.wait_for(POLLHUP); };
  static const auto kOver = over;
  for (int family : {AF_INET, AF_INET6})
    expect_ways(
        family,
        {{"it is open", [](Ends&) {}, kNot},
         {"something was sent", [](Ends& e) { e.write(); }, kNot},
         {"reset at once", [](Ends& e) { e.client_resets(), kOver(e); }, kGone},
         {"reset, and the error was taken",
          [](Ends& e) {
            char byte;
            e.client_resets(), kOver(e);
            CU_ASSERT(recv(e.ours.get(), &byte, 1, 0) < 0);
          },
          kGone},
         {"reset after it has had an answer",
          [](Ends& e) { e.write(), e.client_reads(), e.client_resets(), kOver(e); }, kGone},
         {"reset with an answer under way",
          [](Ends& e) { e.write(4 << 20), e.client_resets(), kOver(e); }, kGone},
         {"closed with an answer unread", [](Ends& e) { e.write(), e.client_closes(), kOver(e); },
          kGone},
         {"closed, with nothing sent to it",
          [](Ends& e) { e.client_closes(), e.wait_for(POLLRDHUP); }, kFinished},
         // It cannot be told from the one before.
         {"done with writing, and waiting for a first byte",
          [](Ends& e) { e.client_finishes_writing(), e.wait_for(POLLRDHUP); }, kFinished},
         {"done with writing, and an answer on its way",
          [](Ends& e) { e.client_finishes_writing(), e.wait_for(POLLRDHUP), e.write(); }, kNot},
         {"closed after it has had an answer",
          [](Ends& e) { e.write(), e.client_reads(), e.client_closes(), e.wait_for(POLLRDHUP); },
          kNot},
         {"closed after an answer, of which there is more",
          [](Ends& e) {
            e.write(), e.client_reads(), e.client_closes(), e.wait_for(POLLRDHUP);
            e.write(), kOver(e);
          },
          kGone},
         {"we were done, then the client",
          [](Ends& e) {
            e.write(), e.finish_writing(), e.client_reads(), e.client_closes(), kOver(e);
            CU_ASSERT_TRUE(unit::eventually([&] { return client_end(e.ours.get()) == kNot; }));
          },
          kNot},
         {"the client was done, then we",
          [](Ends& e) {
            e.client_finishes_writing(), e.wait_for(POLLRDHUP);
            e.write(), e.finish_writing();
            CU_ASSERT_TRUE(unit::eventually([&] { return client_end(e.ours.get()) == kNot; }));
          },
          kNot}});
}

void unix_sockets() {
  expect_ways(AF_UNIX, {{"it is open", [](Ends&) {}, kNot},
                        {"done with writing", [](Ends& e) { e.client_finishes_writing(); }, kNot},
                        {"we are done with writing", [](Ends& e) { e.finish_writing(); }, kNot},
                        {"closed", [](Ends& e) { e.client_closes(); }, kFinished},
                        {"closed with an answer unread",
                         [](Ends& e) { e.write(), e.client_closes(); }, kFinished},
                        {"the same, and the error was taken",
                         [](Ends& e) {
                           char byte;
                           e.write(), e.client_closes();
                           CU_ASSERT(recv(e.ours.get(), &byte, 1, 0) < 0);
                         },
                         kFinished}});
}

void what_is_no_connection() {
  CU_ASSERT(client_end(-1) == kNot);
  int pipe_ends[2];
  CU_ASSERT_EQUAL_FATAL(pipe2(pipe_ends, O_CLOEXEC), 0);
  const UniqueFd read_end(pipe_ends[0]);
  UniqueFd(pipe_ends[1]).reset();
  CU_ASSERT(client_end(read_end.get()) == kNot);  // it has hung up, but is no socket
}

void what_it_counts_as() {
  for (ClientEnd end : {kNot, kFinished, kGone})
    CU_ASSERT(outcome_of(true, end) == Outcome::kServed);
  CU_ASSERT(outcome_of(false, kNot) == Outcome::kFailed);
  for (ClientEnd end : {kFinished, kGone}) CU_ASSERT(outcome_of(false, end) == Outcome::kAborted);
}

}  // namespace

void add_client_end_tests() {
  unit::add_suite("client_end", {{"TCP", tcp},
                                 {"Unix sockets", unix_sockets},
                                 {"what is no connection", what_is_no_connection},
                                 {"what it counts as", what_it_counts_as}});
}
