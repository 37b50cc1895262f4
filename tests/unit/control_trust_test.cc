// control/: who is let in, who makes room, and what happens to who does not go on. The attack as a whole, by
// other users, is in tests/system/control_trust_test.cc.
#include <sys/socket.h>
#include <sys/un.h>

#include <list>

#include "base/refuse_rights.h"
#include "control/endpoint.h"
#include "control/host.h"
#include "control/routes.h"
#include "tests/unit/control_test.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using unit::eventually;

void add_control_trust_tests();

namespace {

// --- names -----------------------------------------------------------------------------------------

void judges_hosts() {
  const std::vector<std::string> names = {"stats.example.org", "Intra_Net", "xn--e1afmkfd.example"};
  const std::string label(63, 'a'), longest = label + "." + label + "." + label + "." + label;
  using enum HostVerdict;
  const struct {
    std::string header;
    HostVerdict verdict;
  } kRows[] = {
      // Addresses, whatever the port.
      {"127.0.0.1", kOurs},
      {"127.0.0.1:9707", kOurs},
      {"192.0.2.255:65535", kOurs},
      {"0.0.0.0", kOurs},
      {"127.0.0.1:", kOurs},
      {"127.0.0.1 \t", kOurs},
      {"[::1]", kOurs},
      {"[::1]:9707", kOurs},
      {"[2001:DB8::A:1]:1", kOurs},
      {"[::ffff:192.0.2.1]", kOurs},
      {"[fe80::1%eth0]:9707", kOurs},
      {"[fe80::1%25eth0]", kOurs},
      // Localhost.
      {"localhost", kOurs},
      {"LocalHost:80", kOurs},
      {"localhost.", kOurs},
      {"a.b.localhost", kOurs},
      // Names that are listed.
      {"stats.example.org", kOurs},
      {"STATS.example.ORG:9707", kOurs},
      {"stats.example.org.", kOurs},
      {"stats.example.org.:9707", kOurs},
      {"intra_net", kOurs},
      {"xn--e1afmkfd.example", kOurs},
      // Names that are not.
      {"attacker.example", kUnknown},
      {"attacker.example:9707", kUnknown},
      {"example.org", kUnknown},
      {"a.stats.example.org", kUnknown},
      {"stats.example.org.attacker.example", kUnknown},
      {"localhost.attacker.example", kUnknown},
      {"notlocalhost", kUnknown},
      {"127.0.0.1.attacker.example", kUnknown},
      {"127.0.0.1.", kUnknown},
      {"127.1", kUnknown},
      {"0127.0.0.1", kUnknown},
      {"2130706433", kUnknown},
      {"0x7f000001", kUnknown},
      {"256.0.0.1", kUnknown},
      {"localhost-", kUnknown},
      {longest.substr(0, 253), kUnknown},
      // What is neither.
      {"", kNonsense},
      {" ", kNonsense},
      {".", kNonsense},
      {":", kNonsense},
      {":9707", kNonsense},
      {".localhost", kNonsense},
      {"localhost..", kNonsense},
      {"a..localhost", kNonsense},
      {" localhost", kNonsense},
      {"local host", kNonsense},
      {"localhost:http", kNonsense},
      {"localhost:123456", kNonsense},
      {"localhost:-1", kNonsense},
      {"localhost:80:80", kNonsense},
      {"localhost:80 attacker.example", kNonsense},
      {"127.0.0.1,attacker.example", kNonsense},
      {"user@127.0.0.1", kNonsense},
      {"user:word@localhost", kNonsense},
      {"http://localhost", kNonsense},
      {"localhost/", kNonsense},
      {"::1", kNonsense},
      {"[::1", kNonsense},
      {"[::1]x", kNonsense},
      {"[::1].attacker.example", kNonsense},
      {"[]", kNonsense},
      {"[127.0.0.1]", kNonsense},
      {"[localhost]", kNonsense},
      {"[::1%]", kNonsense},
      {"[::1%a b]", kNonsense},
      {"[::1]:x", kNonsense},
      {"[::1]]", kNonsense},
      {"*", kNonsense},
      {std::string("localhost\0", 10), kNonsense},
      {std::string("localhost\0.attacker.example", 27), kNonsense},
      {std::string("[::1\0]", 6), kNonsense},
      {"\xd0\xbf\xd1\x80.example", kNonsense},
      {longest, kNonsense},
      {std::string(100'000, 'a'), kNonsense},
      {"[" + std::string(100'000, ':') + "]", kNonsense},
  };
  for (const auto& row : kRows) {
    const bool right = judge_host(row.header, names) == row.verdict;
    if (!right) std::printf("\n  wrong: '%s'\n", row.header.substr(0, 80).c_str());
    CU_ASSERT(right);
  }
  CU_ASSERT(judge_host("stats.example.org", {}) == kUnknown);
}

// --- places ----------------------------------------------------------------------------------------

void makes_room() {
  Places places;
  std::list<Guest> guests;
  auto enter = [&](uint64_t owner, bool entitled) -> Guest& {
    Guest& guest = guests.emplace_back();
    guest.owner = owner;
    guest.entitled = entitled;
    places.enter(guest);
    return guest;
  };
  Guest& quiet = enter(7, false);  // one of a kind, and the most silent of all
  Guest& root = enter(0, true);
  Guest& first = enter(8, false);
  Guest& second = enter(8, false);
  while (guests.size() < Places::kOthers + 1) enter(8, false);
  CU_ASSERT(!places.who_goes(false) && !places.who_goes(true));
  enter(9, false);
  CU_ASSERT(places.who_goes(false) == &first);  // of the greediest, not of who was silent longest
  places.hear_of(first);
  CU_ASSERT(places.who_goes(false) == &second);
  second.stays = true;  // who waits for the daemon stays
  CU_ASSERT(places.who_goes(false) != &second);
  places.leave(first);
  CU_ASSERT(!places.who_goes(false));
  CU_ASSERT(!places.who_goes(true));

  // However many others come, it is they who make room.
  for (int i = 0; i < 1000; ++i) {
    enter(1000 + static_cast<uint64_t>(i) % 100, false);
    Guest* goes = places.who_goes(false);
    CU_ASSERT_FATAL(goes != nullptr && goes != &root && !goes->entitled);
    places.leave(*goes);
    CU_ASSERT(goes != &quiet);
  }
  for (size_t i = 1; i < Places::kEntitled; ++i) enter(i % 2 ? 0 : 500, true);
  CU_ASSERT(!places.who_goes(true));
  enter(501, true);
  CU_ASSERT(places.who_goes(true) == &root);
}

void leaves_none_to_who_comes_last() {
  Places places;
  std::list<Guest> guests;
  for (size_t i = 0; i <= Places::kOthers; ++i) {
    Guest& guest = guests.emplace_back();
    guest.owner = i;
    guest.stays = true;
    places.enter(guest);
  }
  CU_ASSERT(!places.who_goes(false));  // nobody: all stay
  guests.back().stays = false;
  CU_ASSERT(places.who_goes(false) == &guests.back());
}

void counts_what_is_unread() {
  Places places;
  Guest one{1}, two{2}, three{2};
  for (Guest* guest : {&one, &two, &three}) places.enter(*guest);
  places.hold(one, Places::kMostHeld / 2);
  places.hold(two, Places::kMostHeld / 4);
  CU_ASSERT(!places.who_goes(false));
  places.hold(three, Places::kMostHeld / 2);
  CU_ASSERT(places.who_goes(false) == &two);
  places.hold(two, 0);
  CU_ASSERT(!places.who_goes(false));
  places.hold(three, Places::kMostHeld);
  CU_ASSERT(places.who_goes(false) == &three);
  places.leave(three);
  CU_ASSERT(!places.who_goes(false));
}

// --- answers that take long --------------------------------------------------------------------------

// Who asks again and again is shown the same for a while, and what the daemon says is shown at once.
void shows_what_was_dear_again() {
  Pools pools;
  FakeSegment segment(1);
  learn(pools, ControlNews::kDaemon, daemon_news());
  learn(pools, ControlNews::kPool, pool_news(kFirst));
  learn_segment(pools, segment, 1);
  segment.head().published.scan_words = FakeSegment::kCapacity / 64;
  for (uint32_t i = 0; i < FakeSegment::kCapacity; ++i)
    segment.worker(i, WorkerState::kIdle, 1, false);
  Routes routes(pools);
  // Counted, not parsed: that would take longer than it was shown.
  auto workers = [&] {
    auto outcome = routes.respond({"GET", "/v1/pools/echo/workers", "", "", {}, {}});
    const std::string& body = std::get<HttpReply>(outcome).body;
    uint32_t count = 0;
    for (size_t at = 0; (at = body.find("\"slot\"", at)) != body.npos; ++at) ++count;
    return count;
  };
  CU_ASSERT(workers() == FakeSegment::kCapacity);
  segment.slot(0).state = static_cast<uint32_t>(WorkerState::kEmpty);
  CU_ASSERT(workers() == FakeSegment::kCapacity);
  routes.follow_news();
  CU_ASSERT(workers() == FakeSegment::kCapacity - 1);
  segment.slot(1).state = static_cast<uint32_t>(WorkerState::kEmpty);
  CU_ASSERT(eventually([&] { return workers() == FakeSegment::kCapacity - 2; }));
}

// --- the endpoint ----------------------------------------------------------------------------------

UniqueFd unix_socket() {
  return UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

// An endpoint that answers /large at once and lets /daemon wait.
class House {
 public:
  static constexpr Nanoseconds kStep = 300 * kMillisecond;

  // `step`: for what is not about being late, longer than a loaded machine takes.
  explicit House(bool entitled, Nanoseconds step = kStep) {
    address_.sun_family = AF_UNIX;
    length_ = sizeof address_.sun_family;  // the kernel chooses a name
    UniqueFd listener = unix_socket();
    CU_ASSERT_FATAL(bind(listener.get(), reinterpret_cast<sockaddr*>(&address_), length_) == 0);
    length_ = sizeof address_;
    getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address_), &length_);
    listen(listener.get(), 1000);
    endpoint_.emplace(
        loop_, std::move(listener),
        Endpoint::Calls{[this](const HttpCall& call, uint32_t id) { return reply(call, id); },
                        [entitled](const Peer&) { return entitled; }},
        step);
  }

  UniqueFd client(std::string_view text) {
    UniqueFd fd = unix_socket();
    CU_ASSERT(connect(fd.get(), reinterpret_cast<sockaddr*>(&address_), length_) == 0);
    CU_ASSERT(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
              static_cast<ssize_t>(text.size()));
    return fd;
  }

  template <class Condition>
  bool work_until(Condition holds) {
    return eventually([&] { return loop_.turn(false), holds(); });
  }

  Endpoint& endpoint() { return *endpoint_; }
  std::vector<uint32_t> waiting{};
  std::vector<std::string> order{};

 private:
  std::optional<HttpReply> reply(const HttpCall& call, uint32_t id) {
    order.emplace_back(call.path);
    if (call.path == "/daemon") return waiting.push_back(id), std::nullopt;
    if (call.path == "/slow")
      sleep_for(2 * kMillisecond);  // longer than a turn: one is answered in each
    HttpReply reply;
    reply.body.assign(call.path == "/large" ? 10'000'000 : 2, ' ');
    return reply;
  }

  EventLoop loop_;
  sockaddr_un address_{};
  socklen_t length_ = 0;
  std::optional<Endpoint> endpoint_;
};

std::string get(const std::string& path) { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"; }

bool is_ended(const UniqueFd& fd) {
  pollfd p{fd.get(), 0, 0};
  return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

std::string received(const UniqueFd& fd) {
  std::string text(64 * 1024, '\0');
  const ssize_t n = recv(fd.get(), text.data(), text.size(), MSG_PEEK);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

// Each in its step; but who waits for the daemon is not hurried.
void ends_who_does_not_go_on() {
  for (bool entitled : {true, false}) {
    House house(entitled);
    UniqueFd daemon = house.client(get("/daemon"));
    CU_ASSERT_FATAL(house.work_until([&] { return house.waiting.size() == 1; }));
    std::list<UniqueFd> slow;
    for (const std::string& text :
         {std::string(), std::string("GET /"), std::string("GET / HTTP/1.1\r\nA: b\r\n"),
          std::string("PATCH / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"), get("/large"),
          get("/small")})
      slow.push_back(house.client(text));
    CU_ASSERT(house.work_until([&] { return std::all_of(slow.begin(), slow.end(), is_ended); }));
    CU_ASSERT(!is_ended(daemon));
    house.endpoint().answer(house.waiting.front(), HttpReply{});
    CU_ASSERT(house.work_until([&] { return received(daemon).starts_with("HTTP/1.1 200"); }));
  }
}

// All who wait for their turn are sent away, for others who say nothing, when it is about to come.
void sends_all_away_who_wait() {
  House house(false, 60 * kSecond);
  std::list<UniqueFd> asking, silent;
  for (size_t i = 0; i < Places::kOthers; ++i) asking.push_back(house.client(get("/slow")));
  for (size_t i = 0; i < Places::kOthers + 32; ++i) silent.push_back(house.client(""));
  CU_ASSERT(house.work_until([&] {
    return std::all_of(asking.begin(), asking.end(),
                       [](const UniqueFd& fd) { return !received(fd).empty(); });
  }));
  UniqueFd last = house.client(get("/small"));
  CU_ASSERT(house.work_until([&] { return received(last).starts_with("HTTP/1.1 200"); }));
}

// The most silent hears that nothing was done, and that it may come again.
void sends_away_with_a_word() {
  House house(false, 60 * kSecond);
  UniqueFd first = house.client("GET / HT");
  std::list<UniqueFd> crowd;
  CU_ASSERT(house.work_until([&] {
    crowd.push_back(house.client(""));
    return is_ended(first) || crowd.size() > 2 * Places::kOthers;
  }));
  CU_ASSERT(is_ended(first));
  CU_ASSERT(crowd.size() >= Places::kOthers);
  const std::string word = received(first);
  expect_part(word, "HTTP/1.1 503");
  expect_part(word, "\r\nRetry-After: 1\r\n");
  expect_part(word, "{\"error\":");
}

// Where all wait for the daemon, the next one hears it, and no one of them is ended.
void keeps_who_waits() {
  House house(true);
  std::list<UniqueFd> asked;
  for (size_t i = 0; i < Places::kEntitled; ++i) asked.push_back(house.client(get("/daemon")));
  CU_ASSERT_FATAL(house.work_until([&] { return house.waiting.size() == Places::kEntitled; }));
  UniqueFd next = house.client(get("/small"));
  CU_ASSERT(house.work_until([&] { return is_ended(next); }));
  expect_part(received(next), "HTTP/1.1 503");
  for (uint32_t id : house.waiting) house.endpoint().answer(id, HttpReply{});
  for (const UniqueFd& one : asked)
    CU_ASSERT(house.work_until([&] { return received(one).starts_with("HTTP/1.1 200"); }));
}

void hands_refusal_of_rights_on() {
  UniqueFd listener = unix_socket();
  int passes = 0;
  socklen_t size = sizeof passes;
  if (getsockopt(listener.get(), SOL_SOCKET, SO_PASSRIGHTS, &passes, &size) < 0)
    return void(std::printf("(this Linux cannot) "));
  CU_ASSERT(passes == 1);
  refuse_rights(listener.get());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socklen_t length = sizeof address.sun_family;
  CU_ASSERT_FATAL(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length) == 0);
  length = sizeof address;
  getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length);
  listen(listener.get(), 1);
  UniqueFd client = unix_socket();
  CU_ASSERT_FATAL(connect(client.get(), reinterpret_cast<sockaddr*>(&address), length) == 0);
  // Before it is accepted, too.
  CU_ASSERT(Channel(std::move(client)).send_struct(uint64_t{1}, 0) == Channel::Sent::kGone);
  UniqueFd accepted(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  CU_ASSERT(getsockopt(accepted.get(), SOL_SOCKET, SO_PASSRIGHTS, &passes, &size) == 0);
  CU_ASSERT(passes == 0);
}

}  // namespace

void add_control_trust_tests() {
  unit::add_suite("control_trust", {{"whose name a Host is", judges_hosts},
                                    {"who makes room", makes_room},
                                    {"who comes last", leaves_none_to_who_comes_last},
                                    {"what is unread counts", counts_what_is_unread},
                                    {"what was dear is shown again", shows_what_was_dear_again},
                                    {"who does not go on is ended", ends_who_does_not_go_on},
                                    {"who is sent away hears why", sends_away_with_a_word},
                                    {"all who wait are sent away", sends_all_away_who_wait},
                                    {"who waits for the daemon stays", keeps_who_waits},
                                    {"no descriptors are taken", hands_refusal_of_rights_on}});
}
