#include "worker/serving_program.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/exec_strings.h"
#include "base/program_environment.h"
#include "worker/executable.h"
#include "worker/program.h"
#include "worker/signals.h"

namespace preforkd {
namespace {

std::string variable(const char* name, const std::string& value) {
  std::string text(name);
  return text.append("=").append(value);
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// In front of what the user has put there.
std::string search_path(const char* name, const std::string& folder) {
  const std::string before = variable(name);
  return variable(name, before.empty() ? folder : folder + ":" + before);
}

}  // namespace

std::string ServingWorker::to_text() const {
  std::string text;
  for (int64_t number : {int64_t{layout}, int64_t{pid}, int64_t{supervisor}, int64_t{slot},
                         int64_t{capacity}, int64_t{segment}, int64_t{settings}, int64_t{networks},
                         int64_t{first_listen}, int64_t{listen_sockets}, int64_t{log_level},
                         int64_t{library}, int64_t{closer}, int64_t{orders}, int64_t{accepts_on}})
    text += (text.empty() ? "" : " ") + std::to_string(number);
  return text;
}

std::optional<ServingWorker> ServingWorker::from_text(const char* text) {
  ServingWorker w{};
  const int read = std::sscanf(text, "%u %d %d %u %u %d %d %d %d %u %d %d %d %d %d", &w.layout,
                               &w.pid, &w.supervisor, &w.slot, &w.capacity, &w.segment, &w.settings,
                               &w.networks, &w.first_listen, &w.listen_sockets, &w.log_level,
                               &w.library, &w.closer, &w.orders, &w.accepts_on);
  if (read >= 1 && w.layout != shm::kLayoutVersion) return w;
  if (read != 15 || w.slot >= w.capacity) return std::nullopt;
  return w;
}

std::string find_program(const std::string& name) {
  if (name.find('/') != name.npos) return name;
  std::string path = variable("PATH");
  if (path.empty()) path = "/usr/local/bin:/usr/bin:/bin";
  for (size_t from = 0; from <= path.size();) {
    const size_t to = std::min(path.find(':', from), path.size());
    const std::string file = path.substr(from, to - from) + "/" + name;
    if (access_trouble(file).empty()) return file;
    from = to + 1;
  }
  return "";
}

ServingProgram::ServingProgram(const std::vector<std::string>& argv, const std::string& folder,
                               const std::string& library, const ServingWorker& worker)
    : file_(find_program(argv[0])),
      library_(worker.library < 0 ? library : "/proc/self/fd/" + std::to_string(worker.library)),
      argv_(argv),
      environment_(environment_of_programs()),
      worker_(worker) {
  std::erase_if(environment_, [](const std::string& entry) {
    const std::string name = entry.substr(0, entry.find('='));
    return is_serving_variable(name) || name == "PYTHONPATH" || name == "PERL5LIB";
  });
  environment_.push_back(variable(kLibraryVariable, library_));
  environment_.push_back(search_path("PYTHONPATH", folder + "/python"));
  environment_.push_back(search_path("PERL5LIB", folder + "/perl"));
}

std::string ServingProgram::become(uint32_t slot) const {
  ServingWorker worker = worker_;
  worker.slot = slot;
  worker.orders = -1;
  return become(worker);
}

std::string ServingProgram::become_template(int orders) const {
  ServingWorker worker = worker_;
  worker.orders = orders;
  fcntl(orders, F_SETFD, 0);
  return become(worker);
}

std::vector<std::string> ServingProgram::environment_for(const ServingWorker& worker) const {
  std::vector<std::string> environment = environment_;
  environment.push_back(variable(kWorkerVariable, worker.to_text()));
  if (worker.orders >= 0 || worker.accepts_on >= 0) {
    std::erase_if(environment, [](const std::string& entry) {
      return entry.starts_with(std::string(kPreloadVariable) + "=");
    });
    environment.push_back(search_path(kPreloadVariable, library_));
  }
  if (worker.accepts_on > 0) {
    environment.push_back(variable("LISTEN_PID", std::to_string(worker.pid)));
    environment.push_back(variable("LISTEN_FDS", "1"));
  }
  return environment;
}

std::string ServingProgram::become(const ServingWorker& as) const {
  ServingWorker worker = as;
  worker.pid = getpid();
  const std::vector<std::string> environment = environment_for(worker);

  const int last_listen = worker.first_listen + static_cast<int>(worker.listen_sockets) - 1;
  fcntl(worker.segment, F_SETFD, 0);
  fcntl(worker.settings, F_SETFD, 0);
  fcntl(worker.networks, F_SETFD, 0);
  if (worker.library >= 0) fcntl(worker.library, F_SETFD, 0);
  if (worker.closer >= 0) fcntl(worker.closer, F_SETFD, 0);
  for (int fd = worker.first_listen; fd <= last_listen; ++fd) fcntl(fd, F_SETFD, 0);
  dup2(2, 1);
  if (worker.accepts_on >= 0) dup2(worker.first_listen, worker.accepts_on);
  // What the library takes into its hands stays blocked (worker/intake.h), and SIGPIPE ignored; the rest is as
  // for any program. Handlers go back to their defaults by themselves.
  for (int number = 1; number < NSIG; ++number)
    if (number != SIGPIPE && is_ignored(number)) set_to_default(number);
  throw_away_pending(SIGUSR1);
  block_exactly(signal_bit(SIGURG) | signal_bit(SIGUSR2));
  execve(file_.c_str(), pointers_to(argv_).data(), pointers_to(environment).data());
  return "execute " + file_ + ": " + std::strerror(errno);
}

}  // namespace preforkd
