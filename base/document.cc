#include "base/document.h"

#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/memory_file.h"

namespace preforkd {

UniqueFd make_document(const std::string& text) {
  UniqueFd fd = make_memory_file("preforkd-document");
  if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw SysError("write a document", errno);
  return fd;
}

std::string read_document(int fd) {
  std::string text;
  char buffer[4096];
  constexpr int kTries = 3;
  for (int failures = 0;;) {
    ssize_t n = pread(fd, buffer, sizeof buffer, static_cast<off_t>(text.size()));
    if (n < 0 && errno == EINTR) continue;
    // After the exec of an upgrade all depends on it, and there may be no memory for a moment.
    if (n < 0 && ++failures < kTries) continue;
    if (n < 0) throw SysError("read a document", errno);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace preforkd
