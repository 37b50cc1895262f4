// daemon/listener: sockets of addresses that get another user, stored ones among them.
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "base/error.h"
#include "daemon/listener.h"
#include "daemon/resolve.h"
#include "daemon/socket_store.h"
#include "tests/unit/listener_test.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using namespace preforkd::unit;

namespace {

EffectiveUser user_of(uid_t uid) { return {uid, uid, "user" + std::to_string(uid), true}; }

bool connects(const std::string& address) {
  const SocketAddress to = resolve(parsed(address));
  UniqueFd client(socket(to.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return connect(client.get(), to.get(), to.length) == 0;
}

bool takes_one(const Listener& listener) {
  return UniqueFd(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC)).is_open();
}

// Those with which alice's pool began, as bob's gets them.
Listeners moved(const Listeners& from, const PoolSettings& to, std::vector<std::string>& errors) {
  Listeners free = from;
  std::vector<InheritedSocket> none;
  const std::vector<PoolSettings> pools = {to};
  Opening opening{pools, {}, free, none, errors};
  Listeners opened = open_listeners(to, user_of(1002), from, opening);
  listen_on_new(opened, from, 16, "", errors);
  return opened;
}

Listeners alices(const PoolSettings& settings, std::vector<std::string>& errors) {
  Listeners free;
  std::vector<InheritedSocket> none;
  const std::vector<PoolSettings> pools = {settings};
  Opening opening{pools, {}, free, none, errors};
  Listeners opened = open_listeners(settings, user_of(1001), {}, opening);
  listen_on_new(opened, {}, 16, "", errors);
  return opened;
}

// One that was asked for: a socket that is shut down keeps it. (Of port 0 it would get another.)
std::string free_address() { return Listener::open(parsed("127.0.0.1:0"), 1).address(); }

// With the address that was in force; it listens when the one before has made way.
void another_user_gets_another_socket() {
  std::vector<std::string> errors;
  const PoolSettings both =
      pool({free_address(), "unix:@preforkd-test-" + std::to_string(getpid())});
  const Listeners old = alices(both, errors);
  CU_ASSERT_EQUAL_FATAL(old.size(), 2);
  const Listeners next = moved(old, both, errors);
  CU_ASSERT_EQUAL_FATAL(next.size(), 2);
  CU_ASSERT(errors.empty());
  for (size_t i = 0; i < 2; ++i) {
    CU_ASSERT(next[i] != old[i] && next[i]->before() == Listeners{old[i]});
    CU_ASSERT(unit::same_text(next[i]->address(), old[i]->address()));
    CU_ASSERT(unit::same_text(next[i]->wanted(), old[i]->wanted()));
    CU_ASSERT(!next[i]->is_listening() && !next[i]->may_listen() && next[i]->uid() == 1002);
    next[i]->set_backlog(16);  // (would bind it to any port)
    next[i]->close_the_door();
  }
  // As long as it does not listen, there is but one before it.
  Listeners free = next;
  std::vector<InheritedSocket> none;
  const std::vector<PoolSettings> pools = {both};
  Opening opening{pools, {}, free, none, errors};
  const Listeners third = open_listeners(both, user_of(1003), next, opening);
  CU_ASSERT_EQUAL_FATAL(third.size(), 2);
  CU_ASSERT(third[0]->before() == Listeners{old[0]} && !third[0]->is_listening());

  CU_ASSERT(connects(old[0]->address()) && takes_one(*old[0]));
  old[0]->close_the_door();
  CU_ASSERT_FALSE(third[0]->may_listen());  // who waits in the queue is to be served first
  old[0]->give_up();
  CU_ASSERT_TRUE(third[0]->may_listen());
  third[0]->start_listening(16);
  CU_ASSERT(third[0]->is_listening() && third[0]->before().empty());
  CU_ASSERT(connects(old[0]->address()) && takes_one(*third[0]) && !takes_one(*old[0]));
  CU_ASSERT_EQUAL(listen(old[0]->fd(), 16), -1);  // by whoever has a copy
  // An abstract name is free when nobody has a copy.
  std::string why;
  try {
    third[1]->start_listening(16);
  } catch (const SysError& e) {
    why = e.what();
  }
  CU_ASSERT(why.ends_with(": Address already in use"));
}

// A process that was left behind makes its copy listen again, as often as it can.
void one_who_listens_again() {
  std::vector<std::string> errors;
  const PoolSettings one = pool({free_address()});
  for (int round = 0; round < 20; ++round) {
    const Listeners old = alices(one, errors);
    CU_ASSERT_EQUAL_FATAL(old.size(), 1);
    std::atomic<bool> is_over{false};
    std::atomic<uint64_t> tried{0};
    std::thread left([&] {
      for (; !is_over; ++tried) listen(old[0]->fd(), 16);
    });
    while (tried == 0) std::this_thread::yield();
    const Listeners next = moved(old, one, errors);
    CU_ASSERT_EQUAL(next.size(), 1);
    try {
      next.at(0)->start_listening(16);
    } catch (const std::exception& e) {
      CU_ASSERT(unit::same_text(e.what(), ""));
    }
    const uint64_t then = tried;
    while (tried < then + 100) std::this_thread::yield();
    CU_ASSERT(connects(old[0]->address()) && takes_one(*next[0]));
    is_over = true;
    left.join();
  }
}

// Whoever has a copy has switched SO_REUSEADDR off: bound as it is, it would be in the way of every other.
void one_who_switches_reuse_off() {
  std::vector<std::string> errors;
  const PoolSettings one = pool({free_address()});
  const Listeners old = alices(one, errors);
  const UniqueFd copy(dup(old.at(0)->fd()));
  const int off = 0;
  CU_ASSERT_EQUAL(setsockopt(copy.get(), SOL_SOCKET, SO_REUSEADDR, &off, sizeof off), 0);
  const Listeners next = moved(old, one, errors);
  std::string why;
  try {
    next.at(0)->start_listening(16);
  } catch (const std::exception& e) {
    why = e.what();
  }
  CU_ASSERT(unit::same_text(why, ""));
  // The same of one that is dropped, and asked for again.
  CU_ASSERT_EQUAL(setsockopt(next[0]->fd(), SOL_SOCKET, SO_REUSEADDR, &off, sizeof off), 0);
  next[0]->give_up();
  const Listeners again = alices(one, errors);
  CU_ASSERT(errors.empty());
}

// A stored one that alice's processes have shut down makes way as one that listens.
void one_that_was_shut_down() {
  std::vector<std::string> errors;
  const PoolSettings one = pool({free_address()});
  const Listeners old = alices(one, errors);
  shutdown(old.at(0)->fd(), SHUT_RDWR);
  const int off = 0;
  setsockopt(old[0]->fd(), SOL_SOCKET, SO_REUSEADDR, &off, sizeof off);
  auto stored = std::make_shared<Listener>(
      Listener::recover(UniqueFd(dup(old[0]->fd())), "preforkd/a@1001/b", one.listen[0]));
  stored->is_of(1001);
  const Listeners next = moved({stored}, one, errors);
  CU_ASSERT_EQUAL_FATAL(next.size(), 1);
  CU_ASSERT(!stored->is_listening() && next[0]->before() == Listeners{stored});
  stored->set_stored_as("");
  next[0]->start_listening(16);
  CU_ASSERT(connects(one.listen[0]) && takes_one(*next[0]));
}

// Its file is another one, and the first is not taken away with it.
void a_path_for_another_user() {
  unit::Folder folder;
  std::vector<std::string> errors;
  const PoolSettings one = pool({"unix:" + (folder / "sock")});
  Listeners old = alices(one, errors);
  const Listeners next = moved(old, one, errors);
  CU_ASSERT_EQUAL_FATAL(next.size(), 1);
  CU_ASSERT(connects(old[0]->address()));
  CU_ASSERT_FALSE(next[0]->may_listen());
  old[0]->close_the_door();
  CU_ASSERT_TRUE(next[0]->may_listen());
  next[0]->start_listening(16);
  CU_ASSERT(takes_one(*old[0]));  // who waited still does
  CU_ASSERT(connects(next[0]->address()) && takes_one(*next[0]));
  old.clear();
  CU_ASSERT(connects(next[0]->address()));
}

void what_cannot_be_another_users() {
  std::vector<std::string> errors;
  TcpOptions shared;
  shared.reuse_port = true;
  const Listeners old = alices(pool({"127.0.0.1:0"}, shared), errors);
  CU_ASSERT_EQUAL_FATAL(old.size(), 1);
  CU_ASSERT(moved(old, pool({"127.0.0.1:0"}), errors).empty());
  const Listeners plain = alices(pool({"127.0.0.1:0"}), errors);
  CU_ASSERT(moved(plain, pool({"127.0.0.1:0"}, shared), errors).empty());
  auto inherited = std::make_shared<Listener>(Listener::adopt(bare_listen_socket(), "web"));
  inherited->opened_for("systemd:web");
  inherited->is_of(1001);
  CU_ASSERT(moved({inherited}, pool({"systemd:web"}), errors).empty());
  CU_ASSERT_EQUAL_FATAL(errors.size(), 3);
  CU_ASSERT(errors[0].find("with tcp.reuse_port they could go on listening beside user user1002") !=
            std::string::npos);
  CU_ASSERT(unit::same_text(errors[1].substr(errors[1].find(':', 20)),
                            errors[0].substr(errors[0].find(':', 20))));
  CU_ASSERT(errors[2].find("processes of the user with uid 1001 have its socket") !=
            std::string::npos);
}

// Whose it was is part of its name.
void stores_whose_it_is() {
  SocketStore store;
  std::vector<std::string> errors;
  const PoolSettings one = pool({"127.0.0.1:0"});
  const Listeners own = alices(one, errors);
  CU_ASSERT_EQUAL_FATAL(own.size(), 1);
  store_sockets("web", own);
  std::vector<InheritedSocket> stored;
  const std::string name = own[0]->stored_as();
  CU_ASSERT(name.starts_with("preforkd/web@1001/127.0.0.1=0="));
  stored.push_back({UniqueFd(dup(own[0]->fd())), name});
  // Of an older daemon: nobody knows.
  UniqueFd other = bare_listen_socket();
  stored.push_back({std::move(other), "preforkd/old/127.0.0.1=0=1"});
  auto again = recover_stored(stored, {});
  CU_ASSERT_EQUAL_FATAL(again["web"].size(), 1);
  CU_ASSERT_EQUAL(again["web"][0]->uid(), 1001);
  CU_ASSERT_EQUAL_FATAL(again["old"].size(), 1);
  CU_ASSERT_EQUAL(again["old"][0]->uid(), static_cast<uid_t>(-1));
  const Listeners next = moved(again["web"], one, errors);
  CU_ASSERT_EQUAL_FATAL(next.size(), 1);
  CU_ASSERT(next[0]->before() == Listeners{again["web"][0]});
  unstore_socket(*next[0]->before().at(0));
  next[0]->start_listening(16);
  CU_ASSERT(connects(own[0]->address()) && takes_one(*next[0]) && !takes_one(*own[0]));
  // What does not listen yet is not stored.
  const Listeners later = moved(alices(one, errors), one, errors);
  store_sockets("web", later);
  CU_ASSERT(unit::same_text(later.at(0)->stored_as(), ""));
}

}  // namespace

void add_moves_tests() {
  static const unit::Test kTests[] = {
      {"another user gets another socket", another_user_gets_another_socket},
      {"one who listens again", one_who_listens_again},
      {"one who switches SO_REUSEADDR off", one_who_switches_reuse_off},
      {"one that was shut down", one_that_was_shut_down},
      {"a path for another user", a_path_for_another_user},
      {"what cannot be another user's", what_cannot_be_another_users},
      {"stores whose it is", stores_whose_it_is},
  };
  unit::add_suite("moves", kTests);
}
