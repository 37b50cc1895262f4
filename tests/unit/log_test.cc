// The log: what a line looks like, what comes out of a pipe as lines, and what is lost when nobody reads.
#include "base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "daemon/log_link.h"
#include "daemon/takeover.h"
#include "log/lines.h"
#include "log/queues.h"
#include "log/shown.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

std::string text_of(std::string_view text) { return log_text({LogLevel::kInfo, "p", 7, text}); }

void nothing_steers_a_terminal() {
  const std::string front = "pool p: worker 7: ";
  struct {
    std::string_view text, shown;
  } constexpr kCases[] = {
      {"a\tb", "a\tb"},
      {"a\x1b[31mb\r\n\x7f", "a?[31mb???"},
      {"a\xc2\x9b"
       "31m",
       "a?31m"},  // U+009B
      {"a\x9b"
       "31m",
       "a?31m"},                   // its byte alone
      {"\xe0\x82\x9b", "\xe0??"},  // the same, too long
      {"\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80", "\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80"},
      {"\xe2\x82", "\xe2?"},  // half a character
      {"\xfc", "\xfc"},
  };
  for (const auto& c : kCases)
    CU_ASSERT(unit::same_text(text_of(c.text), front + std::string(c.shown)));
}

void a_line_is_cut() {
  std::string long_one;
  long_one.resize(10'000'000, 'x');
  const std::string text = text_of(long_one);
  CU_ASSERT(text.size() < kMostOfLine + 100);
  CU_ASSERT(text.ends_with("x... (9996500 bytes more)"));
  CU_ASSERT(!text_of(std::string(kMostOfLine, 'x')).ends_with("more)"));
}

void own_lines() {
  LogLine line{};
  CU_ASSERT(own_line_from("\0014123 text", line));
  CU_ASSERT(line.level == LogLevel::kWarning && line.worker == 123 && line.text == "text");
  CU_ASSERT(own_line_from("\00160 ", line) && line.worker == 0 && line.text.empty());
  for (const char* other : {"", "text", "\001", "\0019", "\00191 x", "\0016", "\0016x y", "\00612",
                            "\0016-1 x", "\001699999999999 x", "<3>text"})
    CU_ASSERT(!own_line_from(other, line));
}

// Descriptor 2 for a while.
class Stderr {
 public:
  explicit Stderr(int fd) : before_(dup(2)) { dup2(fd, 2); }
  ~Stderr() { dup2(before_.get(), 2); }

 private:
  UniqueFd before_;
};

void a_full_pipe_is_not_waited_for() {
  int ends[2];
  CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
  UniqueFd reader(ends[0]), writer(ends[1]);
  const Nanoseconds before = monotonic_now();
  {
    Stderr full(writer.get());
    for (int i = 0; i < 10'000; ++i) log_to_pipe({LogLevel::kNotice, {}, 42, "a line"});
  }
  CU_ASSERT(monotonic_now() - before < 5 * kSecond);
  char bytes[64];
  const ssize_t n = read(reader.get(), bytes, sizeof bytes);
  CU_ASSERT_FATAL(n == sizeof bytes);
  CU_ASSERT(std::string(bytes, sizeof bytes).starts_with("\001542 a line\n\001542 a line\n"));
}

std::vector<std::string> lines_of(const std::vector<std::string>& pieces) {
  Lines lines;
  std::vector<std::string> all;
  auto keep = [&](std::string line) { all.push_back(std::move(line)); };
  for (const std::string& piece : pieces) lines.add(piece, keep);
  lines.end(keep);
  return all;
}

void lines_of_a_pipe() {
  using All = std::vector<std::string>;
  CU_ASSERT(lines_of({"one\ntw", "o", "\n\nthree"}) == (All{"one", "two", "", "three"}));
  CU_ASSERT(lines_of({"", "\n"}) == All{""});
  CU_ASSERT(lines_of({}).empty());
  const std::string most(kMostOfRawLine, 'x');
  CU_ASSERT(lines_of({most + "\n", "next"}) == (All{most, "next"}));
  CU_ASSERT(lines_of({most, "yy", "y\nnext\n"}) == (All{most + "... (3 bytes more)", "next"}));
}

Entry entry(const std::string& text) {
  Entry e;
  e.text = text;
  return e;
}

void turns() {
  Queues queues;
  for (int i = 0; i < 3; ++i) queues.push("loud", entry("l" + std::to_string(i)));
  queues.push("quiet", entry("q"));
  queues.push(kOfDaemon, entry("d"));
  std::string order;
  while (auto next = queues.pop()) order += next->text + " ";
  CU_ASSERT(unit::same_text(order, "l0 q d l1 l2 "));
  CU_ASSERT(queues.is_empty());
}

void what_is_lost_is_said() {
  Queues queues;
  const std::string text(1000, 'x');
  const size_t fit = Queues::kMostOfSource / (text.size() + sizeof(Entry));
  for (size_t i = 0; i < fit + 5; ++i) queues.push("loud", entry(text));
  queues.push("quiet", entry("q"));
  for (size_t i = 0; i < fit; ++i) {
    auto next = queues.pop();
    CU_ASSERT_FATAL(next.has_value());
    if (i == 1) CU_ASSERT(unit::same_text(next->text, "q"));
    // Where a line is missing it is said, and not for each line that has room again.
    if (i == 2) queues.push("loud", entry("too early"));
  }
  queues.push("loud", entry("after"));
  std::vector<Entry> rest;
  while (auto next = queues.pop()) rest.push_back(*next);
  CU_ASSERT_EQUAL_FATAL(rest.size(), 3);
  CU_ASSERT(unit::same_text(
      rest[1].text,
      "6 lines were lost: they come faster than they are read, or than one may write them"));
  CU_ASSERT(unit::same_text(rest[1].pool, "loud"));
  CU_ASSERT(rest[1].level == LogLevel::kWarning);
  CU_ASSERT(unit::same_text(rest[2].text, "after"));
}

void lost_before() {
  Queues queues;
  queues.count_lost(kOfDaemon, 0);
  CU_ASSERT(queues.is_empty());
  queues.count_lost(kOfDaemon, 3);
  auto said = queues.pop();
  CU_ASSERT_FATAL(said.has_value());
  CU_ASSERT(unit::same_text(said->text,
                            "3 lines of the daemon were lost: they come faster than they are read, "
                            "or than one may write them"));
  CU_ASSERT(!queues.pop());
}

Entry raw(const std::string& text) {
  Entry e = entry(text);
  e.pool = "a";
  e.is_raw = true;
  return e;
}

void whose_line_it_is() {
  const struct {
    std::string text, in_file, in_stream;
  } kRows[] = {
      {"hello", "preforkd: pool a: hello\n", "<6>pool a: hello\n"},
      {"", "preforkd: pool a: \n", "<6>pool a: \n"},
      {"preforkd: pool b: I am b", "preforkd: pool a: preforkd: pool b: I am b\n",
       "<6>pool a: preforkd: pool b: I am b\n"},
      {"<0>the end", "preforkd: pool a: <0>the end\n", "<3>pool a: the end\n"},
      {"<4><0>x", "preforkd: pool a: <4><0>x\n", "<4>pool a: <0>x\n"},
      {"<7>x", "preforkd: pool a: <7>x\n", "<7>pool a: x\n"},
      {"<8>x", "preforkd: pool a: <8>x\n", "<6>pool a: <8>x\n"},
      {"a\x1b[2J\rpreforkd: stopped", "preforkd: pool a: a?[2J?preforkd: stopped\n",
       "<6>pool a: a?[2J?preforkd: stopped\n"},
  };
  for (const auto& row : kRows) {
    CU_ASSERT(unit::same_text(shown(raw(row.text), false), row.in_file));
    CU_ASSERT(unit::same_text(shown(raw(row.text), true), row.in_stream));
  }
  Entry told = raw("<0>the end");
  take_priority(told);  // as the journal has it
  CU_ASSERT(told.level == LogLevel::kError && told.text == "the end");
  CU_ASSERT(unit::same_text(shown(entry("ready"), false), "preforkd: ready\n"));
}

// An upgrade while one log process follows the other: what nobody has heard yet, the next image says.
void lines_over_an_upgrade() {
  EventLoop loop;
  LogLink before(loop, std::make_shared<HeldFile>("/nonexistent"), {});
  before.add({LogLevel::kNotice, "shop", 7, "upgrading: executing \xff\n", Event::kAtMax});
  before.add({LogLevel::kError, {}, 0, "and more"});
  DaemonRecord record;
  record.log = before.record();
  CU_ASSERT_EQUAL_FATAL(record.log.waiting.size(), 2);
  CU_ASSERT_EQUAL(record.log.lost, 0);
  record.log.pid = getpid();  // of a process that is ending (pongs: none)
  LogRecord next = record_from_json(to_json(record)).log;
  LogLink after(loop, std::make_shared<HeldFile>("/nonexistent"), {});
  after.resume(next);
  next = after.record();
  CU_ASSERT_EQUAL_FATAL(next.waiting.size(), 2);
  const LogLineRecord& line = next.waiting[0];
  CU_ASSERT(line.level == static_cast<int>(LogLevel::kNotice) && line.worker == 7);
  CU_ASSERT(line.event == static_cast<uint32_t>(Event::kAtMax) && line.pool == "shop");
  CU_ASSERT(line.text.starts_with("upgrading: executing ") && line.text.ends_with("\n"));
  CU_ASSERT_EQUAL(next.waiting[1].text, "and more");
}

}  // namespace

void add_log_tests() {
  static const unit::Test kTests[] = {
      {"nothing steers a terminal", nothing_steers_a_terminal},
      {"a line is cut", a_line_is_cut},
      {"own lines", own_lines},
      {"a full pipe is not waited for", a_full_pipe_is_not_waited_for},
      {"lines of a pipe", lines_of_a_pipe},
      {"turns", turns},
      {"what is lost is said", what_is_lost_is_said},
      {"lost before", lost_before},
      {"whose line it is", whose_line_it_is},
      {"lines over an upgrade", lines_over_an_upgrade},
  };
  unit::add_suite("log", kTests);
}
