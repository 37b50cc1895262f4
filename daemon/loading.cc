#include "daemon/loading.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>

#include "base/document.h"
#include "base/error.h"
#include "conf/builtin.h"
#include "daemon/plan.h"

namespace preforkd {
namespace {

// Of 16 MiB, the largest file, with every default written out.
constexpr size_t kMostText = size_t{256} << 20;
constexpr Nanoseconds kEndGrace = 1 * kSecond;
// A longer line is the result, which may have megabytes, and is read once, at its end.
constexpr size_t kLongestStep = 64 * 1024;

}  // namespace

Loading::Loading(EventLoop& loop, const Paths& paths, const std::string& file,
                 const InForce& in_force, Calls calls)
    : loop_(loop),
      file_(file.empty() ? std::string(kBuiltinName) : file),
      calls_(std::move(calls)),
      began_(monotonic_now()) {
  const UniqueFd document = make_document(to_json(in_force));
  // The version that runs, whatever has its path by now.
  const UniqueFd image(open("/proc/self/exe", O_PATH | O_CLOEXEC));
  if (!image.is_open()) throw SysError("open /proc/self/exe", errno);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) throw SysError("pipe", errno);
  output_.reset(ends[0]);
  const UniqueFd write_end(ends[1]);
  fcntl(output_.get(), F_SETFL, O_NONBLOCK);
  Launch what;
  what.executable = paths.daemon;
  what.image = image.get();
  what.argv = {"preforkd: loading " + file_, "--load", "3"};
  if (!file.empty()) what.argv.insert(what.argv.end(), {"-c", file});
  what.descriptors = {document.get(), paths.supervisor->to_execute(),
                      paths.static_supervisor->to_execute()};
  what.output = write_end.get();
  child_ = std::make_shared<Child>(launch(what));
  set_deadline(began_ + kLoadLimit);
  loop_.watch(output_.get(), EPOLLIN, [this](uint32_t) { read_lines(); });
}

Loading::~Loading() {
  if (output_.is_open()) loop_.forget(output_.get());
  if (!child_ || !child_->is_running()) return;
  child_->signal(SIGTERM);
  loop_.run_after(kEndGrace, [child = child_] { child->signal(SIGKILL); });
}

void Loading::set_deadline(Nanoseconds deadline) {
  deadline_ = deadline;
  timer_ = loop_.at(deadline_, [this] { on_late(); });
  if (calls_.on_deadline) calls_.on_deadline(deadline_);
}

void Loading::on_late() {
  const auto seconds = (monotonic_now() - began_) / kSecond;
  end({}, {file_ + ": not loaded within " + std::to_string(seconds) +
           " s; what has no end: " + (step_.empty() ? "starting to" : step_)});
}

void Loading::read_lines() {
  char buffer[64 * 1024];
  while (output_.is_open()) {
    const ssize_t n = read(output_.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;  // there is no more yet
    if (n == 0) {       // nor will be: its end is told by its death
      loop_.forget(output_.get());
      return output_.reset();
    }
    text_.append(buffer, static_cast<size_t>(n));
    for (size_t end; (end = text_.find('\n', looked_at_)) != std::string::npos; looked_at_ = 0) {
      take_line(text_.substr(0, end));
      text_.erase(0, end + 1);
    }
    looked_at_ = text_.size();
    if (text_.size() <= kMostText) continue;
    trouble_ = file_ + ": too large, with every default written out";
    child_->signal(SIGKILL);
    loop_.forget(output_.get());
    output_.reset();
  }
}

void Loading::take_line(const std::string& line) {
  std::optional<Step> step;
  try {
    if (line.size() <= kLongestStep) step = step_from_json(line);
  } catch (const std::exception&) {  // not JSON: it has a reason to end, and this is it
  }
  if (!step) {
    result_ = line;
    return;
  }
  step_ = step->what;
  if (step->more_seconds) set_deadline(deadline_ + step->more_seconds * kSecond);
}

bool Loading::child_ended(pid_t pid, int status) {
  if (child_->pid != pid) return false;
  child_->pid = 0;
  read_lines();
  LoadedSettings loaded;
  std::vector<std::string> errors;
  const std::string verb = "load " + file_ + ": ";
  try {
    if (auto failure = child_->failure())
      errors.push_back(failure->text());
    else if (!trouble_.empty())
      errors.push_back(trouble_);
    else if (status != 0 || result_.empty())
      errors.push_back(verb + (result_.empty() ? ending_text(status) : result_));
    else
      loaded = result_from_json(result_, file_, errors);
  } catch (const std::exception& e) {
    errors.push_back(verb + e.what());
  }
  end(std::move(loaded), std::move(errors));
  return true;
}

// The last thing: this may be gone afterwards.
void Loading::end(LoadedSettings loaded, std::vector<std::string> errors) {
  const auto on_loaded = std::move(calls_.on_loaded);
  on_loaded(std::move(loaded), std::move(errors));
}

}  // namespace preforkd
