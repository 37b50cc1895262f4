#include "conf/network_lists.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>

#include "base/error.h"
#include "base/memory_file.h"
#include "base/networks.h"

namespace preforkd {
namespace {

void append(int fd, const FlatSet& flat) {
  const char* at = reinterpret_cast<const char*>(flat.data());
  for (size_t left = flat.size() * sizeof flat[0]; left > 0;) {
    const ssize_t n = write(fd, at, left);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw SysError("write lists of networks", errno);
    at += n;
    left -= static_cast<size_t>(n);
  }
}

// The words that the set at the front of so many has; throws if it has more.
size_t words_of_first(const Number128* words, size_t count) {
  const uint64_t changes = count ? words[0].high : 0;
  const size_t size = changes <= count ? RangeSet::flat_size(changes) : count + 1;
  if (size > count) throw std::runtime_error("map lists of networks: it is something else");
  return size;
}

}  // namespace

UniqueFd make_network_lists(const PoolSettings& settings) {
  UniqueFd fd = make_memory_file("preforkd-networks");
  if (!settings.allow.empty() || !settings.deny.empty() || !settings.trusted.empty()) {
    append(fd.get(),
           AccessList(parse_networks(settings.allow), parse_networks(settings.deny)).flat());
    append(fd.get(), flat_set(parse_networks(settings.trusted), {}, false));
  }
  if (fcntl(fd.get(), F_ADD_SEALS, kAllSeals) < 0) throw SysError("seal lists of networks", errno);
  return fd;
}

NetworkLists::NetworkLists(int fd) {
  struct stat status {};
  if (fstat(fd, &status) < 0) throw SysError("stat lists of networks", errno);
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;
  // Private: before Linux 6.7 what is sealed against writing cannot be mapped as shared, not even to read. Nobody writes,
  // so the pages are the file's.
  void* memory = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  if (memory == MAP_FAILED) throw SysError("map lists of networks", errno);
  memory_ = memory;
  const auto* words = static_cast<const Number128*>(memory);
  const size_t count = size_ / sizeof *words, first = words_of_first(words, count);
  words_of_first(words + first, count - first);
  access_ = RangeSet(words);
  trusted_ = RangeSet(words + first);
}

NetworkLists::~NetworkLists() {
  if (memory_) munmap(memory_, size_);
}

}  // namespace preforkd
