#include "daemon/trusted_path.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <vector>

namespace preforkd {
namespace {

constexpr int kMostLinks = 40;  // as the kernel's own walk

bool may_others_write(const struct stat& s) { return s.st_mode & (S_IWGRP | S_IWOTH); }

std::string below(const std::string& folder, const std::string& name) {
  return (folder == "/" ? "" : folder) + "/" + name;
}

// Why what lies at `path` is not trusted; "": it is.
std::string distrust(const std::string& path, const struct stat& s) {
  if (s.st_uid != 0 && s.st_uid != geteuid())
    return path + " belongs to uid " + std::to_string(s.st_uid);
  const bool is_sticky_folder = S_ISDIR(s.st_mode) && (s.st_mode & S_ISVTX);
  if (!S_ISLNK(s.st_mode) && may_others_write(s) && !is_sticky_folder)
    return path + " may be written to by others";
  return "";
}

// From / to the end of a path, by links too. Holds the folder that it is in.
class Walk {
 public:
  Walk(const std::string& path, bool follows_last) : follows_last_(follows_last) {
    go_on_with(path);
  }

  TrustedPath run() {
    if (!enter_root()) return std::move(found_);
    while (!rest_.empty()) {
      const std::string name = std::move(rest_.back());
      rest_.pop_back();
      if (!(rest_.empty() && !follows_last_) && !step(name)) return std::move(found_);
      if (rest_.empty()) found_.name = name;
    }
    found_.path = below(path_, found_.name);
    found_.folder = std::move(at_);
    return std::move(found_);
  }

 private:
  // Puts the elements of a path, or of a link's target, before those that are left.
  void go_on_with(const std::string& path) {
    for (size_t end = path.size(); end != std::string::npos && end > 0;) {
      const size_t slash = path.rfind('/', end - 1);
      const size_t begin = slash == std::string::npos ? 0 : slash + 1;
      if (begin < end && path.compare(begin, end - begin, ".") != 0)
        rest_.push_back(path.substr(begin, end - begin));
      end = slash;
    }
  }

  bool enter_root() {
    UniqueFd root(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    struct stat s {};
    if (!root.is_open() || fstat(root.get(), &s) < 0) return failed(errno);
    return enter(std::move(root), s, "/");
  }

  bool enter(UniqueFd folder, const struct stat& s, const std::string& path) {
    found_.untrusted = distrust(path, s);
    if (!found_.untrusted.empty()) return false;
    at_ = std::move(folder);
    path_ = path;
    found_.is_shared = may_others_write(s);
    return true;
  }

  // Into the folder of this name, or to where the link points. The last may be a file.
  bool step(const std::string& name) {
    UniqueFd next(openat(at_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat s {};
    if (!next.is_open() || fstat(next.get(), &s) < 0) return failed(errno);
    const std::string path = below(path_, name);
    if (S_ISLNK(s.st_mode)) return follow(next.get(), s, path);
    if (S_ISDIR(s.st_mode) && !rest_.empty()) return enter(std::move(next), s, path);
    return rest_.empty() || failed(ENOTDIR);
  }

  bool follow(int link, const struct stat& s, const std::string& path) {
    found_.untrusted = distrust(path, s);
    if (!found_.untrusted.empty()) return false;
    char target[PATH_MAX];
    const ssize_t size = readlinkat(link, "", target, sizeof target);
    if (size < 0) return failed(errno);
    if (++links_ > kMostLinks) return failed(ELOOP);
    go_on_with(std::string(target, static_cast<size_t>(size)));
    return target[0] != '/' || enter_root();
  }

  bool failed(int error) {
    found_.error = error;
    return false;
  }

  const bool follows_last_;
  std::vector<std::string> rest_;  // the next one last
  UniqueFd at_;
  std::string path_;
  int links_ = 0;
  TrustedPath found_;
};

}  // namespace

TrustedPath walk_trusted(const std::string& path) { return Walk(path, false).run(); }

UniqueFd open_trusted(const std::string& path, std::string& reason) {
  TrustedPath found = Walk(path, true).run();
  auto failed = [&](const std::string& why) {
    reason = why;
    return UniqueFd();
  };
  if (!found.untrusted.empty()) return failed(found.untrusted);
  if (found.error) return failed(path + ": " + std::strerror(found.error));
  if (found.is_shared)
    return failed("the folder of " + found.path + " may be written to by others");
  // O_NONBLOCK: should it be a pipe, nobody is there to write.
  UniqueFd file(openat(found.folder.get(), found.name.c_str(),
                       O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat s {};
  if (!file.is_open() || fstat(file.get(), &s) < 0)
    return failed(path + ": " + std::strerror(errno));
  if (!S_ISREG(s.st_mode)) return failed(found.path + " is no file");
  reason = distrust(found.path, s);
  return reason.empty() ? std::move(file) : UniqueFd();
}

}  // namespace preforkd
