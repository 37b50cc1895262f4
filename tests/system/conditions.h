// What several suites of bad input and scarce resources share: ports that are taken, users without
// rights, daemons that must not come up, and figures that must be exact afterwards.
#pragma once

#include <string>

#include "base/fd.h"
#include "tests/system/harness.h"

namespace preforkd::system_test {

// A port of 127.0.0.1 on which the test itself listens: no preforkd can bind it.
class TakenPort {
 public:
  TakenPort();
  int number() const { return number_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(number_); }
  std::string quoted() const { return "\"" + address() + "\""; }
  void free() { fd_.reset(); }

 private:
  UniqueFd fd_;
  int number_ = 0;
};

bool is_root();
// Prints why a test cannot run here. Nothing but the machine's own limits may be a reason.
void skip(const std::string& reason);

// Whether the programs under test have the sanitizers in them, which need descriptors and system calls of
// their own.
bool are_sanitized();
// How much longer something may take that is measured by whole programs: each sanitized one takes most of a second to
// start where processes are dear.
inline double slowness() { return are_sanitized() ? 3 : 1; }
// THOROUGH=1, as `make more` has it: every case of thousands, where a share of them is what each change can wait for.
bool are_thorough();

// In a child, before exec. They end it with a message where they fail.
void become_nobody();  // nothing for who has no rights anyway
void limit_descriptors(unsigned count);

// For a server made with wait_until_ready = false: it ends by itself with this code, nothing of it is
// left (its destructor looks for processes), and its log has this text.
void expect_refused_start(Server& server, int code, const std::string& text,
                          std::source_location where = std::source_location::current());

// Segments have their names in /dev/shm for an instant only, those of others too.
void expect_no_segment_left(std::source_location where = std::source_location::current());

// No connection is in hand, as many were accepted as the clients made, none is missing in the books, and
// no worker was lost.
void expect_exact_figures(Server& server, const std::string& pool, uint64_t accepted,
                          std::source_location where = std::source_location::current());

// Runs them all at once, and expects each to end with 0 in time. What they say goes to FOLDER/NUMBER.out.
void run_at_once(const std::vector<std::vector<std::string>>& commands, const TestFolder& folder,
                 double seconds, std::source_location where = std::source_location::current());

// For what programs of pools shall read as their own.
void give_to_nobody(const std::string& path);

// How often a text stands in another.
size_t occurrences(const std::string& text, const std::string& part);

}  // namespace preforkd::system_test
