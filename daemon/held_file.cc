#include "daemon/held_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "base/elf_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory_file.h"
#include "base/read_exactly.h"

namespace preforkd {
namespace {

constexpr uint64_t kPiece = 256 * 1024;

int64_t nanoseconds(const timespec& t) { return t.tv_sec * int64_t{1000000000} + t.tv_nsec; }

void copy_part(int from, int to, uint64_t size) {
  std::vector<char> piece(kPiece);
  for (uint64_t at = 0; at < size;) {
    const uint64_t length = std::min(kPiece, size - at);
    if (!read_exactly(from, piece.data(), length, at)) {
      if (errno) throw SysError("read", errno);
      throw std::runtime_error(kCutShort);
    }
    errno = ENOMEM;  // of a part of it there is no other reason
    if (write(to, piece.data(), length) != static_cast<ssize_t>(length))
      throw SysError("copy into memory", errno);
    at += length;
  }
}

}  // namespace

HeldFile::HeldFile(std::string path)
    : HeldFile(path, UniqueFd(open(path.c_str(), O_PATH | O_CLOEXEC))) {}

HeldFile::HeldFile(std::string path, UniqueFd file)
    : path_(std::move(path)), file_(std::move(file)) {
  struct stat s {};
  if (!file_.is_open() || fstat(file_.get(), &s) < 0) {
    open_error_ = errno;
    return;
  }
  size_ = static_cast<uint64_t>(s.st_size);
  modified_ = nanoseconds(s.st_mtim);
  changed_ = nanoseconds(s.st_ctim);
}

HeldFile::HeldFile(const HeldFileRecord& r)
    : path_(r.path),
      file_(r.file),
      copy_(r.copy),
      open_error_(r.file < 0 ? ENOENT : 0),
      size_(r.size),
      modified_(r.modified),
      changed_(r.changed) {}

HeldFileRecord HeldFile::record() const {
  return {path_, file_.get(), copy_.get(), size_, modified_, changed_};
}

// A file's owner may set its size and its time of modification as they were, but not that of its last change. (That
// changes with a name that it loses, too, and then its copy is as good.)
bool HeldFile::is_untouched() const {
  struct stat s {};
  return fstat(file_.get(), &s) == 0 && static_cast<uint64_t>(s.st_size) == size_ &&
         nanoseconds(s.st_mtim) == modified_ && nanoseconds(s.st_ctim) == changed_;
}

void HeldFile::make_copy() {
  auto without = [this](int error) {
    log_warning("hold a copy of " + path_ + ": " + std::strerror(error) +
                ": should it be written over, the next start of it is refused");
  };
  if (!file_.is_open()) return open_error_ == ENOENT ? void() : without(open_error_);
  // That very file, whatever has its path by now.
  const std::string opened = "/proc/self/fd/" + std::to_string(file_.get());
  const UniqueFd source(open(opened.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat s {};
  if (!source.is_open() && errno == EACCES) return;
  if (!source.is_open() || fstat(source.get(), &s) < 0) return without(errno);
  UniqueFd copy;
  try {
    copy = make_executable_memory_file(path_.substr(path_.rfind('/') + 1));
  } catch (const SysError& e) {
    return without(e.error());  // this kernel lets nobody execute memory, say: the file, then
  }
  try {
    const auto size = mapped_part(source.get());
    if (!size && errno) throw SysError("read", errno);
    if (!size) throw std::runtime_error("not an executable, or cut short");
    copy_part(source.get(), copy.get(), *size);
  } catch (const std::exception& e) {
    throw std::runtime_error(path_ + ": " + e.what());
  }
  // Whoever may not read the file may not read its copy, nor look into a process of it (daemon/launch.h).
  if (fchmod(copy.get(), s.st_mode & 0555) < 0 || fcntl(copy.get(), F_ADD_SEALS, kAllSeals) < 0)
    throw SysError("seal a copy of " + path_, errno);
  copy_ = std::move(copy);
}

int HeldFile::to_execute() const {
  if (!file_.is_open()) throw SysError("start " + path_, open_error_);
  return copy_.is_open() && !is_untouched() ? copy_.get() : file_.get();
}

}  // namespace preforkd
