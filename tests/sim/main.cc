// make sim: plays scenarios (tests/sim/play.h), each with a seed of its own, and says which of them went wrong.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <string>

#include "tests/sim/play.h"

namespace {

using namespace preforkd::sim;

constexpr double kMinutes = 10;

// What a run says to who counts.
struct Said {
  uint64_t seed;
  Tally tally;
  char violation[256];
};

double seconds_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

void play_one(uint64_t seed, bool is_traced, int to) {
  const Outcome outcome = play(seed, kMinutes, is_traced);
  Said said{seed, outcome.tally, {}};
  outcome.violation.copy(said.violation, sizeof said.violation - 1);
  if (write(to, &said, sizeof said) != sizeof said) std::abort();
  std::fflush(nullptr);
  _exit(0);
}

// As many at once as there are processors.
class Runs {
 public:
  Runs(uint64_t first, uint64_t count, bool is_traced)
      : next_(first), end_(first + count), is_traced_(is_traced) {
    if (pipe(pipe_) < 0) std::abort();
  }

  // The first failure ends it.
  bool play_all() {
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    while (next_ < end_ || !running_.empty()) {
      while (next_ < end_ && is_good_ && running_.size() < static_cast<size_t>(processors)) begin();
      if (running_.empty()) break;
      wait_for_one();
    }
    return is_good_;
  }
  const Tally& tally() const { return tally_; }

 private:
  void begin() {
    const uint64_t seed = next_++;
    const pid_t pid = fork();
    if (pid == 0) play_one(seed, is_traced_, pipe_[1]);
    if (pid < 0) std::abort();
    running_[pid] = seed;
  }

  void wait_for_one() {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, 0);
    const uint64_t seed = running_[pid];
    running_.erase(pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
      return fail(seed, "the simulated processes have ended it: status " + std::to_string(status));
    Said said{};
    if (read(pipe_[0], &said, sizeof said) != sizeof said) std::abort();
    tally_ += said.tally;
    if (said.violation[0]) fail(said.seed, said.violation);
  }

  void fail(uint64_t seed, const std::string& what) {
    is_good_ = false;
    std::printf("seed %llu, %s\n  again, with what is logged: make sim SEED=%llu RUNS=1 TRACE=1\n",
                static_cast<unsigned long long>(seed), what.c_str(),
                static_cast<unsigned long long>(seed));
  }

  uint64_t next_;
  const uint64_t end_;
  const bool is_traced_;
  int pipe_[2];
  std::map<pid_t, uint64_t> running_;
  Tally tally_;
  bool is_good_ = true;
};

unsigned long long number(uint64_t n) { return n; }

void print(const Tally& t, double seconds) {
  std::printf("%.0f simulated minutes in %.1f s\n", t.minutes, seconds);
  std::printf("  %llu connections, %.1f a second: %llu answered, %llu ended otherwise\n",
              number(t.connections), static_cast<double>(t.connections) / (t.minutes * 60),
              number(t.served), number(t.lost));
  std::printf("  %llu workers forked, %llu of them killed; %llu supervisors, %llu of them killed\n",
              number(t.forks), number(t.kills), number(t.supervisors),
              number(t.supervisors_killed));
  std::printf("  %llu reloads, %llu refused; %llu other orders\n", number(t.reloads),
              number(t.refused), number(t.orders));
}

}  // namespace

// sim SEED RUNS [trace]
int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const double began = seconds_now();
  Runs runs(std::strtoull(argv[1], nullptr, 10), std::strtoull(argv[2], nullptr, 10), argc > 3);
  const bool is_good = runs.play_all();
  print(runs.tally(), seconds_now() - began);
  return is_good ? 0 : 1;
}
