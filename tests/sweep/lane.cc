#include "tests/sweep/lane.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "tests/sweep/errors.h"
#include "tests/sweep/fault.h"

namespace preforkd::sweep {
namespace {

// Faults in one run. (A start that fails comes to no other site.)
constexpr size_t kSoft = 6, kEarly = 3, kDelays = 2, kKills = 2;
constexpr int kNotRun = 127;
constexpr Nanoseconds kLongestRun = 120 * kSecond;

using Batch = std::vector<Fault>;

// Which faults go into one run: those that do not hide each other, and whose messages can be told apart. What goes wrong
// with several is done again with each of them alone.
class Batches {
 public:
  explicit Batches(const std::vector<Site>& sites) {
    for (const Site& site : sites) sites_[site.id] = site;
  }

  void add(const Fault& fault) {
    const Site& site = sites_.at(fault.site);
    // A daemon that is killed comes to no other site.
    if (fault.kills() && site.is_daemon) {
      all_.push_back({fault});
      return;
    }
    std::vector<Batch>& open = fault.kills() ? kills_ : site.is_early ? early_ : soft_;
    // Those of one program: the others need not be followed.
    auto fits = std::find_if(open.begin(), open.end(), [&](const Batch& batch) {
      return sites_.at(batch.front().site).program == site.program && can_join(fault, batch);
    });
    if (fits == open.end()) fits = open.insert(open.end(), Batch());
    fits->push_back(fault);
    if (fits->size() < (fault.kills() ? kKills : site.is_early ? kEarly : kSoft)) return;
    all_.push_back(*fits);
    open.erase(fits);
  }

  std::vector<Batch> all() {
    for (auto* open : {&kills_, &early_, &soft_})
      all_.insert(all_.end(), open->begin(), open->end());
    return all_;
  }

 private:
  // The image before takes over again when an upgrade fails, and cannot when it fails itself.
  bool is_of_takeover(const Fault& fault) const {
    const std::string& stack = sites_.at(fault.site).stack;
    return fault.what == What::kError && stack.find("take_over <") != stack.npos &&
           stack.find("Daemon::run <") == stack.npos;
  }

  bool can_join(const Fault& fault, const Batch& batch) const {
    size_t delays = fault.what == What::kDelay;
    for (const Fault& other : batch) {
      if (other.site == fault.site) return false;
      if (is_of_takeover(other) && is_of_takeover(fault)) return false;
      if (other.what == What::kError && other.error == fault.error) return false;
      delays += other.what == What::kDelay;
    }
    return delays <= kDelays;
  }

  std::map<SiteId, Site> sites_;
  std::vector<Batch> kills_, early_, soft_, all_;
};

std::vector<Fault> read_faults(const std::string& path) {
  std::vector<Fault> faults;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) faults.push_back(Fault::parse(line));
  return faults;
}

// The number of the next batch, which is ours then.
size_t take_next(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file.is_open() || flock(file.get(), LOCK_EX) < 0) throw SysError("lock " + path, errno);
  size_t next = 0;
  char text[32] = {};
  if (pread(file.get(), text, sizeof text - 1, 0) > 0) next = std::stoul(text);
  const int size = std::snprintf(text, sizeof text, "%zu\n", next + 1);
  if (pwrite(file.get(), text, static_cast<size_t>(size), 0) != size)
    throw SysError("write " + path, errno);
  return next;
}

struct Outcome {
  std::vector<Fault> done;
  std::string complaints;
  bool is_well = false, has_lost = false;  // more than a message
  std::string output;
};

// (Each lane is in a namespace of its own, where all have the same pid.)
std::string own_file(const std::string& folder) {
  std::string path = folder + "/output.XXXXXX";
  UniqueFd file(mkostemp(path.data(), O_CLOEXEC));
  if (!file.is_open()) throw SysError("make " + path, errno);
  return path;
}

class Lane {
 public:
  Lane(const std::string& folder, const std::string& program)
      : folder_(folder), program_(program), output_(own_file(folder)) {}
  ~Lane() { unlink(output_.c_str()); }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void work(const Batch& batch) {
    if (batch.size() == 1) return (void)work_alone(batch.front());
    Outcome outcome = run(batch);
    // Something may come of several together only, or of the moment.
    if (!outcome.is_well) {
      keep("together-" + batch.front().text(), outcome);
      append("together", batch.front().text() + outcome.complaints);
      outcome = run(batch);
    }
    bool any_alone = false;
    for (const Fault& fault : batch) {
      const bool is_done =
          std::find(outcome.done.begin(), outcome.done.end(), fault) != outcome.done.end();
      if (is_done && outcome.is_well)
        note(fault, "well");
      else
        any_alone |= !work_alone(fault);
    }
    // (Of two, one may end the start before anybody has heard of the other.)
    if (outcome.has_lost && !any_alone) note(batch.front(), "ill with others" + outcome.complaints);
  }

 private:
  // Twice, where it does not go well: what then goes well depends on the moment. Both are said. Once more where the fault's
  // site was not reached. False: it did not go well.
  bool work_alone(const Fault& fault) {
    int ill = 0, reached = 0;
    std::string text;
    for (int times = 0; times < 3 && reached < 2; ++times) {
      const Outcome outcome = run({fault});
      if (outcome.done.empty() && (outcome.is_well || times < 2)) continue;
      ++reached;
      if (outcome.is_well) break;
      ++ill;
      text = outcome.complaints;
      keep(fault.text(), outcome);
    }
    if (reached == 0)
      note(fault, "unreached");
    else
      note(fault, ill == 0
                      ? "well"
                      : "ill " + std::to_string(ill) + " of " + std::to_string(reached) + text);
    return ill == 0;
  }

  void keep(const std::string& name, const Outcome& outcome) {
    std::ofstream(folder_ + "/failed/" + name, std::ios::trunc) << outcome.output;
  }

  void note(const Fault& fault, const std::string& what) {
    append("done", fault.text() + " " + what);
  }

  void append(const std::string& name, const std::string& text) {
    const std::string line = text + "\n", path = folder_ + "/" + name;
    UniqueFd file(open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
    if (write(file.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size()))
      throw SysError("write " + path, errno);
  }

  Outcome run(const Batch& batch) {
    std::vector<std::string> arguments{program_, "run", folder_ + "/sites"};
    for (const Fault& fault : batch) arguments.push_back(fault.text());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const pid_t pid = fork();
    if (pid < 0) throw SysError("fork", errno);
    if (pid == 0) {
      const int file = open(output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      dup2(file, 1);
      dup2(file, 2);
      execv("/proc/self/exe", argv.data());  // this one, whatever has been built meanwhile
      _exit(kNotRun);
    }
    const Nanoseconds deadline = monotonic_now() + kLongestRun;
    bool is_late = false;
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
      const timespec pause = to_timespec(10 * kMillisecond);
      nanosleep(&pause, nullptr);
      if (monotonic_now() < deadline || is_late) continue;
      is_late = true;
      ::kill(pid, SIGKILL);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == kNotRun)
      throw std::runtime_error("the scenario could not be run");
    return read_outcome(is_late);
  }

  Outcome read_outcome(bool is_late) {
    Outcome outcome;
    std::ifstream file(output_);
    for (std::string line; std::getline(file, line);) {
      outcome.output += line + "\n";
      if (line.starts_with("done ")) outcome.done.push_back(Fault::parse(line.substr(5)));
      if (line.starts_with("complaint ")) {
        outcome.complaints += "; " + line.substr(10, 300);
        outcome.has_lost |= !line.starts_with("complaint nobody said");
      }
      if (line == "well") outcome.is_well = true;
    }
    if (is_late) outcome.complaints += "; the run did not end";
    if (outcome.complaints.empty() && !outcome.is_well) outcome.complaints = "; the run broke off";
    return outcome;
  }

  const std::string folder_, program_, output_;
};

}  // namespace

int run_lane(const std::string& folder, const std::string& program) {
  mkdir((folder + "/failed").c_str(), 0755);
  Batches batches(read_sites(folder + "/sites"));
  for (const Fault& fault : read_faults(folder + "/todo")) batches.add(fault);
  const std::vector<Batch> all = batches.all();
  Lane lane(folder, program);
  for (size_t i; (i = take_next(folder + "/next")) < all.size();) lane.work(all[i]);
  return 0;
}

}  // namespace preforkd::sweep
