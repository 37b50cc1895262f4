// How a system test says what must hold. An expectation that does not hold is recorded and the test
// goes on; what makes the rest of it pointless throws Failure, which ends this test only: the servers
// it started are stopped by their destructors. (CUnit's own fatal assertions jump over destructors.)
#pragma once

#include <CUnit/CUnit.h>

#include <functional>
#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace preforkd::system_test {

class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& what,
                   std::source_location where = std::source_location::current())
      : std::runtime_error(what), where_(where) {}
  const std::source_location& where() const { return where_; }

 private:
  std::source_location where_;
};

// Records an expectation, met or not; `what` is shown when it was not.
bool expect(bool met, const std::string& what,
            std::source_location where = std::source_location::current());

template <class Found, class Expected>
bool expect_equal(const std::string& what, const Found& found, const Expected& expected,
                  std::source_location where = std::source_location::current()) {
  if (found == expected) return expect(true, what, where);
  std::ostringstream text;
  text << what << ": found " << found << ", expected " << expected;
  return expect(false, text.str(), where);
}

bool expect_contains(const std::string& what, const std::string& text, const std::string& part,
                     std::source_location where = std::source_location::current());

// Waits for a named event: asks `has_come` every few milliseconds until it is true. A Failure thrown
// by it counts as "not yet". When the deadline passes, throws a Failure that names the event.
void wait_until(const std::string& event, double seconds, const std::function<bool()>& has_come,
                std::source_location where = std::source_location::current());

struct Test {
  const char* name;
  void (*run)();
};

struct Suite {
  const char* name;
  std::vector<Test> tests;
  bool has_end = false;  // the last one ends what the others share: it comes after any of them, too
};

}  // namespace preforkd::system_test
