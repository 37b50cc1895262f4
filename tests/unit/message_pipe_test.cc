// ipc/message_pipe: whole messages, who sent them, and what nobody sends who keeps to the form. And base/budget.
#include "ipc/message_pipe.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/budget.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

struct Pipe {
  Pipe() {
    auto ends = make_message_pipe();
    in = Inbox(std::move(ends.first));
    out = Outbox(std::move(ends.second));
  }
  Inbox in;
  Outbox out;
};

struct Note {
  uint32_t type = 0, number = 0;
};

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

void messages() {
  Pipe p;
  std::string got;
  CU_ASSERT(p.in.receive(got) == Inbox::Got::kNothing);
  CU_ASSERT(p.out.send_struct(Note{1, 2}) == Outbox::Sent::kYes);
  CU_ASSERT(p.out.send(bytes_of("head"), bytes_of("body")) == Outbox::Sent::kYes);
  const std::string largest(kMostOfMessage, 'x');
  CU_ASSERT(p.out.send(bytes_of(largest)) == Outbox::Sent::kYes);
  CU_ASSERT(p.out.send(bytes_of(largest + "x")) == Outbox::Sent::kGone);
  CU_ASSERT(p.in.receive(got) == Inbox::Got::kMessage);
  auto note = message_in<Note>(got);
  CU_ASSERT(note && note->type == 1 && note->number == 2);
  CU_ASSERT(p.in.receive(got) == Inbox::Got::kMessage);
  CU_ASSERT(unit::same_text(got, "headbody"));
  CU_ASSERT(p.in.receive(got) == Inbox::Got::kMessage);
  CU_ASSERT(got == largest);
  CU_ASSERT(p.in.receive(got) == Inbox::Got::kNothing);
  p.out.close();
  CU_ASSERT(p.in.receive(got) == Inbox::Got::kGone);
  CU_ASSERT(p.out.send_struct(Note{}) == Outbox::Sent::kGone);
}

void a_full_one() {
  Pipe p;
  uint32_t sent = 0, received = 0;
  while (p.out.send_struct(Note{0, sent}) == Outbox::Sent::kYes && sent < 1'000'000) ++sent;
  CU_ASSERT(sent > 1000);
  CU_ASSERT(p.out.send_struct(Note{}) == Outbox::Sent::kFull);
  for (std::string got; p.in.receive(got) == Inbox::Got::kMessage; ++received)
    CU_ASSERT_EQUAL(message_in<Note>(got)->number, received);
  CU_ASSERT_EQUAL(received, sent);
  CU_ASSERT(p.out.send_struct(Note{}) == Outbox::Sent::kYes);
}

void nonsense() {
  for (const std::string& text : {std::string("x"), std::string(4, '\0'), std::string(4, '\xff'),
                                  std::string("\x08\0\0\0\0\0\0\0x", 9)}) {
    Pipe p;
    CU_ASSERT_EQUAL(write(p.out.fd(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    std::string got;
    CU_ASSERT(p.in.receive(got) == Inbox::Got::kGone);
  }
}

// What a socket would take is refused to the sender.
void no_descriptors() {
  Pipe p;
  char byte = 'x';
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  CU_ASSERT(sendmsg(p.out.fd(), &message, 0) < 0 && errno == ENOTSOCK);
}

// A child that has a copy of the writing end, as one of a hostile preload would, and its parent.
void senders() {
  Pipe p;
  unit::Child copy([&] { return p.out.send_struct(Note{1, 1}) == Outbox::Sent::kYes; });
  CU_ASSERT_TRUE(copy.succeeded());
  std::string got;
  CU_ASSERT(p.in.receive(got) == Inbox::Got::kMessage);
  CU_ASSERT_EQUAL(p.in.sender_of(got), 0);  // it is dead

  p.out.send_struct(Note{2, 2});
  p.out.send_struct(Note{2, 2});
  unit::Child reader([&] {
    std::string ours;
    for (int i = 0; i < 2; ++i)  // the same twice are two
      if (p.in.receive(ours) != Inbox::Got::kMessage || p.in.sender_of(ours) != getppid())
        return false;
    // What was never sent nobody vouches for.
    ours.back() = static_cast<char>(ours.back() + 1);
    return p.in.sender_of(ours) == 0;
  });
  CU_ASSERT_TRUE(reader.succeeded());
}

// What does not fit is not vouched for; what did, is, however often was tried in vain since.
void claims_of_a_full_one() {
  Pipe p;
  uint32_t sent = 0;
  while (p.out.send(bytes_of(std::string(500, 'x'))) == Outbox::Sent::kYes) ++sent;
  while (p.out.send_struct(Note{}) == Outbox::Sent::kYes) ++sent;  // what is left of a page
  for (int i = 0; i < 1000; ++i) CU_ASSERT(p.out.send_struct(Note{}) == Outbox::Sent::kFull);
  unit::Child reader([&] {
    std::string got;
    for (uint32_t i = 0; i < sent; ++i)
      if (p.in.receive(got) != Inbox::Got::kMessage || p.in.sender_of(got) != getppid())
        return false;
    return true;
  });
  CU_ASSERT_TRUE(reader.succeeded());
}

// Only those of the last messages are kept, as many as there can be in the pipe.
void old_claims_are_given_up() {
  Pipe p;
  std::string got;
  for (uint32_t i = 0; i < 1000; ++i) {
    CU_ASSERT_FATAL(p.out.send_struct(Note{7, i}) == Outbox::Sent::kYes);
    CU_ASSERT_FATAL(p.in.receive(got) == Inbox::Got::kMessage);
  }
  unit::Child reader([&] {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    uint32_t held = 0;
    for (; fcntl(p.in.fd(), F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && held < 1000; ++held) {
      lock.l_type = F_WRLCK;
      lock.l_start += lock.l_len;
      lock.l_len = 0;
    }
    return held > 0 && held <= 256;
  });
  CU_ASSERT_TRUE(reader.succeeded());
}

void budgets() {
  Budget budget(10, 100);
  Nanoseconds now = 5 * kSecond;
  for (int i = 0; i < 10; ++i) CU_ASSERT_TRUE(budget.take(now));
  CU_ASSERT_FALSE(budget.take(now));
  CU_ASSERT_FALSE(budget.take(now + 9 * kMillisecond));
  CU_ASSERT_TRUE(budget.take(now + 10 * kMillisecond));
  CU_ASSERT_FALSE(budget.take(now + 10 * kMillisecond));
  now += 10 * kSecond;  // no more than at once is saved up
  for (int i = 0; i < 10; ++i) CU_ASSERT_TRUE(budget.take(now));
  CU_ASSERT_FALSE(budget.take(now));
}

}  // namespace

void add_message_pipe_tests() {
  static const unit::Test kTests[] = {
      {"whole messages", messages},
      {"full", a_full_one},
      {"nonsense", nonsense},
      {"no descriptors", no_descriptors},
      {"senders", senders},
      {"claims of a full one", claims_of_a_full_one},
      {"old claims are given up", old_claims_are_given_up},
      {"budgets", budgets},
  };
  unit::add_suite("message_pipe", kTests);
}
