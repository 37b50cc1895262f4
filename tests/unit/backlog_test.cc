// base/backlog: what waits in an accept queue, and how much may, for every kind of listen socket.
#include "base/backlog.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <fstream>

#include "base/address.h"
#include "daemon/resolve.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

constexpr uint32_t kLimit = 7;
constexpr const char* kKinds[] = {"127.0.0.1:0", "[::1]:0", "unix:@preforkd-unit-test-backlog",
                                  "unix:"};

// A listen socket of one kind, and clients that wait in its queue.
struct Queue {
  explicit Queue(std::string text, int limit = kLimit) {
    if (text == "unix:") text += folder / "sock";
    std::string error;
    SocketAddress at = resolve(*parse_listen_address(text, error));
    family = at.storage.ss_family;
    fd.reset(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    CU_ASSERT_EQUAL_FATAL(bind(fd.get(), at.get(), at.length), 0);
    CU_ASSERT_EQUAL_FATAL(listen(fd.get(), limit), 0);
    address.length = sizeof address.storage;
    getsockname(fd.get(), address.get(), &address.length);
  }
  void connect_one() {
    clients.emplace_back(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CU_ASSERT_EQUAL_FATAL(connect(clients.back().get(), address.get(), address.length), 0);
  }
  ino_t inode() const {
    struct stat s {};
    CU_ASSERT_EQUAL(fstat(fd.get(), &s), 0);
    return s.st_ino;
  }

  unit::Folder folder;
  int family = 0;
  SocketAddress address;
  UniqueFd fd;
  std::vector<UniqueFd> clients;
};

bool is(const std::optional<Backlog>& backlog, uint32_t queued, uint32_t limit) {
  if (backlog && backlog->queued == queued && backlog->limit == limit) return true;
  if (backlog) std::printf("\n  %u of %u\n", backlog->queued, backlog->limit);
  return false;
}

std::optional<Backlog> by_inode(const Queue& queue) {
  auto found = queued_by_inode({queue.inode()});
  return found.size() == 1 ? std::optional(found.begin()->second) : std::nullopt;
}

void counts_what_waits() {
  for (const char* kind : kKinds) {
    Queue queue(kind);
    for (uint32_t waiting = 0; waiting <= 3; ++waiting) {
      // A TCP client may know of its connection a moment before the queue has it.
      CU_ASSERT_TRUE(
          unit::eventually([&] { return queued_on(queue.fd.get())->queued == waiting; }));
      CU_ASSERT_TRUE(is(queued_on(queue.fd.get()), waiting, kLimit));
      CU_ASSERT_TRUE(is(by_inode(queue), waiting, kLimit));
      queue.connect_one();
    }
    CU_ASSERT_TRUE(unit::eventually([&] { return queued_on(queue.fd.get())->queued == 4; }));
    for (uint32_t left = 4; left-- > 0;) {
      CU_ASSERT_TRUE(UniqueFd(accept4(queue.fd.get(), nullptr, nullptr, SOCK_CLOEXEC)).is_open());
      CU_ASSERT_TRUE(is(queued_on(queue.fd.get()), left, kLimit));
    }
  }
}

// By what was asked for, or by what the kernel takes in on one of them: one more than its limit.
void counts_what_is_too_much() {
  for (const char* kind : kKinds) {
    Queue full(kind, 2), other(kKinds[0]);
    const std::vector<int> both = {full.fd.get(), other.fd.get()};
    auto exceeds = [&](uint32_t waiting, uint32_t most) {
      CU_ASSERT_TRUE(unit::eventually([&] { return queued_on(both) == waiting; }));
      return exceeded_on(both, most);
    };
    other.connect_one();
    full.connect_one();
    full.connect_one();
    CU_ASSERT_TRUE(exceeds(3, 3) == std::nullopt);
    CU_ASSERT_TRUE(exceeds(3, 2) == 2u);
    CU_ASSERT_TRUE(exceeds(3, 0) == 0u);
    full.connect_one();
    CU_ASSERT_TRUE(exceeds(4, 4) == 2u);  // there is no room for another
    CU_ASSERT_TRUE(exceeds(4, 3) == 3u);
  }
  CU_ASSERT_TRUE(exceeded_on({}, 0) == std::nullopt);
}

void the_limit_is_the_kernels() {
  uint32_t somaxconn = 0;
  std::ifstream("/proc/sys/net/core/somaxconn") >> somaxconn;
  for (const char* kind : kKinds) {
    Queue queue(kind, 1'000'000);
    CU_ASSERT_TRUE(is(queued_on(queue.fd.get()), 0, somaxconn));
    CU_ASSERT_TRUE(is(by_inode(queue), 0, somaxconn));
  }
}

void only_those_asked_for() {
  Queue a("127.0.0.1:0", 3), b("[::1]:0", 4), c("unix:", 5), other("127.0.0.1:0", 6);
  auto found = queued_by_inode({a.inode(), b.inode(), c.inode(), ino_t{1}});
  CU_ASSERT_EQUAL(found.size(), 3);
  CU_ASSERT_TRUE(is(found[a.inode()], 0, 3) && is(found[b.inode()], 0, 4) &&
                 is(found[c.inode()], 0, 5));
  CU_ASSERT_TRUE(queued_by_inode({}).empty());
  CU_ASSERT_TRUE(queued_by_inode({ino_t{1}}).empty());
}

void what_is_no_socket() {
  UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  for (int fd : {-1, file.get()}) CU_ASSERT_FALSE(queued_on(fd).has_value());
}

// Whoever takes what cannot be known for 0 lets go of those who wait.
void without_a_descriptor() {
  Queue queue("unix:");
  queue.connect_one();
  const std::vector<int> sockets{queue.fd.get()};
  CU_ASSERT_TRUE(unit::eventually([&] { return queued_if_known(sockets, ~0u) == 1u; }));
  unit::Child child([&] {
    const rlimit none{0, 0};
    setrlimit(RLIMIT_NOFILE, &none);
    return queued_if_known(sockets, ~0u) == std::nullopt;
  });
  CU_ASSERT(child.succeeded());
  Queue tcp("127.0.0.1:0");
  unit::Child other([&] {
    const rlimit none{0, 0};
    setrlimit(RLIMIT_NOFILE, &none);
    return shakes_hands({tcp.fd.get()}, ~0u) && queued_if_known({tcp.fd.get()}, ~0u) == 0u;
  });
  CU_ASSERT(other.succeeded());
}

// One that asks over and over, as a supervisor does, keeps no descriptor.
void leaves_no_descriptor() {
  Queue queue("unix:");
  const size_t before = unit::open_descriptors();
  for (int i = 0; i < 10; ++i) {
    queued_on(queue.fd.get());
    by_inode(queue);
  }
  CU_ASSERT_EQUAL(unit::open_descriptors(), before);
}

}  // namespace

void add_backlog_tests() {
  static const unit::Test kTests[] = {
      {"counts what waits", counts_what_waits},
      {"what is too much", counts_what_is_too_much},
      {"the limit is the kernel's", the_limit_is_the_kernels},
      {"only those asked for, by inode", only_those_asked_for},
      {"what is no socket has none", what_is_no_socket},
      {"without a descriptor", without_a_descriptor},
      {"leaves no descriptor", leaves_no_descriptor},
  };
  unit::add_suite("backlog", kTests);
}
