// The system tests: system-tests [SUITE [TEST]], or --lane FOLDER: those suites that no other lane with the same folder
// takes. Exit status 0 when all that was asked for ran and held.
#include <CUnit/Basic.h>
#include <curl/curl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr Nanoseconds kTimeForAll =
    1200 * kSecond;  // a third of it on a machine that has nothing else to do
constexpr Nanoseconds kTimeForSoak = 1200 * kSecond;

// CUnit calls functions without arguments: which test it is, it knows itself.
struct Run {
  std::map<CU_pTest, void (*)()> tests;
  Nanoseconds deadline = 0;
};
Run& this_run() {
  static Run run;
  return run;
}

void run_current() {
  try {
    if (monotonic_now() > this_run().deadline) throw Failure("no time left for this test");
    this_run().tests.at(CU_get_current_test())();
  } catch (const Failure& e) {
    expect(false, e.what(), e.where());
  } catch (const std::exception& e) {
    expect(false, e.what());
  }
}

void add(const Suite& suite, const char* only) {
  CU_pSuite added = CU_add_suite(suite.name, nullptr, nullptr);
  for (const Test& test : suite.tests)
    if (!only || std::strcmp(only, test.name) == 0 ||
        (suite.has_end && &test == &suite.tests.back()))
      this_run().tests[CU_add_test(added, test.name, run_current)] = test.run;
}

// Lanes run side by side and share one folder. Whoever makes a suite's folder within it runs that suite: so none waits
// for a lane that happened to get the long ones.
class Lane {
 public:
  Lane() = default;  // all of them
  explicit Lane(const char* folder) : folder_(folder) {}

  bool takes(const char* suite) const {
    if (folder_.empty()) return true;
    const std::string taken = folder_ + "/" + suite;
    if (mkdir(taken.c_str(), 0700) == 0) return true;
    if (errno == EEXIST) return false;
    throw SysError("mkdir " + taken, errno);
  }

 private:
  std::string folder_;
};

// One suite, as a whole of its own. Whether all of it ran and held.
bool run(const Suite& suite, const char* only_test) {
  if (CU_initialize_registry() != CUE_SUCCESS) throw std::runtime_error(CU_get_error_msg());
  this_run().tests.clear();
  add(suite, only_test);
  CU_basic_set_mode(CU_BRM_VERBOSE);
  CU_basic_run_tests();
  const bool good =
      CU_get_number_of_tests_run() == this_run().tests.size() && CU_get_number_of_failures() == 0;
  CU_cleanup_registry();
  return good;
}

int run_all(const char* only, const char* only_test, const Lane& lane) {
  // What a dead server leaves behind shall come to us and be seen.
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
    throw SysError("become child subreaper", errno);
  signal(SIGPIPE, SIG_IGN);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  const bool on_request = only && std::strcmp(only, "soak") == 0;
  this_run().deadline = monotonic_now() + (on_request ? kTimeForSoak : kTimeForAll);
  bool good = true;
  size_t ran = 0;
  for (const Suite& suite : on_request ? std::vector{soak_suite()} : all_suites())
    if ((!only || std::strcmp(only, suite.name) == 0) && lane.takes(suite.name)) {
      good = run(suite, only_test) && good;
      ran += this_run().tests.size();
    }
  if (only && ran == 0) throw std::runtime_error("no suite or test is called so");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace preforkd::system_test

int main(int argc, char** argv) {
  using namespace preforkd::system_test;
  try {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);  // so that it stands beside what goes to stderr
    if (argc == 3 && std::strcmp(argv[1], "--lane") == 0)
      return run_all(nullptr, nullptr, Lane(argv[2]));
    return run_all(argc > 1 ? argv[1] : nullptr, argc > 2 ? argv[2] : nullptr, {});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "system-tests: %s\n", e.what());
    return 1;
  }
}
