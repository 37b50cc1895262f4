// worker/acceptor: on which of several listen sockets it looks first.
#include "worker/acceptor.h"

#include <sys/socket.h>

#include "daemon/resolve.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

constexpr int kPatienceMs = static_cast<int>(unit::kPatience / kMillisecond);

// A listen socket on a free port, and clients of it.
class Door {
 public:
  Door() : socket_(open_listen_socket()), address_(local_address(fd())) {}
  int fd() const { return socket_.get(); }
  void knock() {
    clients_.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CU_ASSERT_EQUAL_FATAL(connect(clients_.back().get(), address_.get(), address_.length), 0);
    // The client may know of its connection a moment before the queue has it.
    pollfd queued{fd(), POLLIN, 0};
    CU_ASSERT_EQUAL(poll(&queued, 1, kPatienceMs), 1);
  }
  bool is_of(const std::optional<Accepted>& accepted) const {
    return accepted && to_string(local_address(accepted->fd.get())) == to_string(address_);
  }

 private:
  static UniqueFd open_listen_socket() {
    std::string error;
    const SocketAddress any = resolve(*parse_listen_address("127.0.0.1:0", error));
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    CU_ASSERT_EQUAL_FATAL(bind(fd.get(), any.get(), any.length), 0);
    CU_ASSERT_EQUAL_FATAL(listen(fd.get(), 16), 0);
    return fd;
  }

  UniqueFd socket_;
  SocketAddress address_;
  std::vector<UniqueFd> clients_;
};

// The wake-up of one socket must not be spent on the other.
void what_woke_it_comes_first() {
  Door doors[2];
  const std::vector<int> sockets{doors[0].fd(), doors[1].fd()};
  Acceptor acceptor(sockets);
  const sigset_t nothing_blocked{};
  for (int woken_by : {1, 0, 0, 1, 1}) {
    CU_ASSERT(!acceptor.try_accept());
    doors[woken_by].knock();
    acceptor.wait(nothing_blocked, kPatienceMs);
    doors[1 - woken_by].knock();
    CU_ASSERT(doors[woken_by].is_of(acceptor.try_accept()));
    CU_ASSERT(doors[1 - woken_by].is_of(acceptor.try_accept()));
  }
}

void each_in_its_turn() {
  Door doors[3];
  const std::vector<int> sockets{doors[0].fd(), doors[1].fd(), doors[2].fd()};
  Acceptor acceptor(sockets);
  for (auto& door : doors) door.knock(), door.knock();
  for (int i = 0; i < 6; ++i) CU_ASSERT(doors[i % 3].is_of(acceptor.try_accept()));
  CU_ASSERT(!acceptor.try_accept());
}

void from_some_only() {
  Door doors[3];
  const std::vector<int> sockets{doors[0].fd(), doors[1].fd(), doors[2].fd()};
  Acceptor acceptor(sockets);
  for (auto& door : doors) door.knock();
  CU_ASSERT(doors[1].is_of(acceptor.try_accept(1 << 1)));
  CU_ASSERT(!acceptor.try_accept(1 << 1));
  CU_ASSERT(doors[2].is_of(acceptor.try_accept()));
  CU_ASSERT(doors[0].is_of(acceptor.try_accept()));
}

}  // namespace

void add_acceptor_tests() {
  unit::add_suite("acceptor", {{"what woke it comes first", what_woke_it_comes_first},
                               {"each in its turn", each_in_its_turn},
                               {"from some only", from_some_only}});
}
