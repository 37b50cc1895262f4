// ipc/channel: whole datagrams with and without descriptors, and what a mad other end can do.
#include "ipc/channel.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstring>

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

struct Pair {  // `a` sends, `b` receives
  Pair() {
    auto ends = Channel::make_pair();
    a = Channel(std::move(ends.first));
    b = Channel(std::move(ends.second));
  }
  Channel a, b;
};

struct Message {
  uint32_t type = 0, number = 0;
};

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

bool same_file(int a, int b) {
  struct stat x {
  }, y{};
  return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

void datagrams() {
  Pair p;
  Channel::Datagram got;
  CU_ASSERT(p.b.receive(got) == Channel::Got::kNothing);
  CU_ASSERT(p.a.send_struct(Message{1, 2}) == Channel::Sent::kYes);
  CU_ASSERT(p.a.send(bytes_of("head"), bytes_of("body")) == Channel::Sent::kYes);
  CU_ASSERT(p.b.receive(got) == Channel::Got::kMessage);
  auto message = got.as<Message>();
  CU_ASSERT(message && message->type == 1 && message->number == 2);
  CU_ASSERT_FALSE(got.descriptor.is_open());
  CU_ASSERT(p.b.receive(got) == Channel::Got::kMessage);
  CU_ASSERT(unit::same_text(got.bytes, "headbody"));
  CU_ASSERT_TRUE(got.as<Message>().has_value());  // it has the size, and no more is promised
  CU_ASSERT(p.b.receive(got) == Channel::Got::kNothing);
  for (int fd : {p.a.fd(), p.b.fd()}) {
    CU_ASSERT(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CU_ASSERT(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  }
}

void wrong_sizes() {
  Pair p;
  Channel::Datagram got;
  for (const char* text : {"1234567", "123456789"}) {
    p.a.send(bytes_of(text));
    CU_ASSERT(p.b.receive(got) == Channel::Got::kMessage);
    CU_ASSERT_FALSE(got.as<Message>().has_value());
  }
  send(p.a.fd(), "", 0, 0);  // an empty one is nothing we ever say
  CU_ASSERT(p.b.receive(got) == Channel::Got::kGone);
}

void descriptors() {
  Pair p;
  UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  Channel::Datagram got;
  CU_ASSERT(p.a.send_struct(Message{}, file.get()) == Channel::Sent::kYes);
  CU_ASSERT(p.a.send_struct(Message{}) == Channel::Sent::kYes);
  CU_ASSERT(p.b.receive(got) == Channel::Got::kMessage);
  CU_ASSERT(got.descriptor.is_open() && got.descriptor.get() != file.get());
  CU_ASSERT_TRUE(same_file(got.descriptor.get(), file.get()));
  CU_ASSERT(fcntl(got.descriptor.get(), F_GETFD) & FD_CLOEXEC);
  const size_t open_now = unit::open_descriptors();
  CU_ASSERT(p.b.receive(got) == Channel::Got::kMessage);
  CU_ASSERT_FALSE(got.descriptor.is_open());  // not the one of the datagram before
  CU_ASSERT_EQUAL(unit::open_descriptors(), open_now - 1);
}

// More descriptors than we ever send: none may stay open here.
void too_many_descriptors() {
  Pair p;
  UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const size_t before = unit::open_descriptors();
  for (size_t count : {2u, 3u, 10u, 100u}) {
    std::string control(CMSG_SPACE(count * sizeof(int)), '\0');
    char byte = 'x';
    iovec part{&byte, 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (size_t i = 0; i < count; ++i) {
      int fd = file.get();
      std::memcpy(CMSG_DATA(header) + i * sizeof fd, &fd, sizeof fd);
    }
    CU_ASSERT_EQUAL_FATAL(sendmsg(p.a.fd(), &message, 0), 1);
    {
      Channel::Datagram got;
      p.b.receive(got);
    }
    CU_ASSERT_EQUAL(unit::open_descriptors(), before);
  }
}

void large_ones() {
  Pair p;
  Channel::Datagram got;
  std::string large(Channel::kMaxDatagram, 'x');
  large.back() = 'y';
  CU_ASSERT(p.a.send(bytes_of(large)) == Channel::Sent::kYes);
  CU_ASSERT(p.b.receive(got) == Channel::Got::kMessage);
  CU_ASSERT(got.bytes == large);
  CU_ASSERT(p.a.send(bytes_of("small")) == Channel::Sent::kYes);
  CU_ASSERT(p.b.receive(got) == Channel::Got::kMessage);
  CU_ASSERT(unit::same_text(got.bytes, "small"));
}

// The receiver does not make room for whatever is sent.
void too_large_ones() {
  Pair p;
  int room = 4 * Channel::kMaxDatagram;
  setsockopt(p.a.fd(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  std::string larger(Channel::kMaxDatagram + 1, 'x');
  CU_ASSERT_EQUAL_FATAL(send(p.a.fd(), larger.data(), larger.size(), 0),
                        static_cast<ssize_t>(larger.size()));
  Channel::Datagram got;
  CU_ASSERT(p.b.receive(got) == Channel::Got::kGone);
  CU_ASSERT_TRUE(got.bytes.empty());
}

void a_full_one() {
  Pair p;
  const std::string some(1000, 'x');
  uint32_t sent = 0;
  while (p.a.send(bytes_of(some)) == Channel::Sent::kYes && sent < 1'000'000) ++sent;
  CU_ASSERT(sent >= 8);
  CU_ASSERT(p.a.send(bytes_of(some)) == Channel::Sent::kFull);
  Channel::Datagram got;
  uint32_t received = 0;
  while (p.b.receive(got) == Channel::Got::kMessage) ++received;
  CU_ASSERT_EQUAL(received, sent);
  CU_ASSERT(p.a.send(bytes_of(some)) == Channel::Sent::kYes);
}

void the_other_end_is_gone() {
  Pair p;
  CU_ASSERT(p.a.send_struct(Message{7, 8}) == Channel::Sent::kYes);
  p.a.close();
  Channel::Datagram got;
  CU_ASSERT(p.b.receive(got) == Channel::Got::kMessage);  // its last words are still heard
  CU_ASSERT_EQUAL(got.as<Message>()->type, 7);
  CU_ASSERT(p.b.receive(got) == Channel::Got::kGone);
  Pair other;
  other.b.close();
  CU_ASSERT(other.a.send_struct(Message{}) == Channel::Sent::kGone);  // and no SIGPIPE
  Channel closed;
  CU_ASSERT(closed.send_struct(Message{}) == Channel::Sent::kGone);
  CU_ASSERT(closed.receive(got) == Channel::Got::kGone);
}

// A process that dies is gone like one that closed.
void the_other_process_is_gone() {
  Pair p;
  unit::Child other([&] {
    p.b.close();
    p.a.send_struct(Message{1, 1});
    return true;
  });
  p.a.close();
  CU_ASSERT_TRUE(other.succeeded());
  Channel::Datagram got;
  CU_ASSERT(p.b.receive(got) == Channel::Got::kMessage);
  CU_ASSERT(p.b.receive(got) == Channel::Got::kGone);
}

// Nothing reaches the more trusted end, which would have to close what comes with it.
void nothing_comes_back() {
  Pair p;
  UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  CU_ASSERT(p.b.send_struct(Message{}) == Channel::Sent::kGone);
  CU_ASSERT(p.b.send_struct(Message{}, file.get()) == Channel::Sent::kGone);
  CU_ASSERT_EQUAL(shutdown(p.b.fd(), SHUT_RDWR), 0);  // nor does that open it
  CU_ASSERT(p.b.send_struct(Message{}, file.get()) == Channel::Sent::kGone);
  int waiting = -1;
  CU_ASSERT_EQUAL(ioctl(p.a.fd(), FIONREAD, &waiting), 0);
  CU_ASSERT_EQUAL(waiting, 0);
}

}  // namespace

void add_channel_tests() {
  static const unit::Test kTests[] = {
      {"whole datagrams", datagrams},
      {"wrong sizes", wrong_sizes},
      {"descriptors", descriptors},
      {"too many descriptors", too_many_descriptors},
      {"as large as allowed", large_ones},
      {"larger than allowed", too_large_ones},
      {"full", a_full_one},
      {"the other end is gone", the_other_end_is_gone},
      {"the other process is gone", the_other_process_is_gone},
      {"nothing comes back", nothing_comes_back},
  };
  unit::add_suite("channel", kTests);
}
