#include "template/loadable.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/fd.h"

namespace preforkd {
namespace {

template <class T>
bool read_at(int fd, uint64_t offset, T& into) {
  return pread(fd, &into, sizeof into, static_cast<off_t>(offset)) == sizeof into;
}

// The loader that a binary asks for; "": none.
std::string loader_of(int fd, const ElfW(Ehdr) & header) {
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    ElfW(Phdr) part{};
    if (!read_at(fd, header.e_phoff + i * sizeof part, part)) break;
    if (part.p_type != PT_INTERP) continue;
    char name[256] = {};
    const size_t size = std::min<size_t>(part.p_filesz, sizeof name - 1);
    if (pread(fd, name, size, static_cast<off_t>(part.p_offset)) < 0) break;
    return name;
  }
  return "";
}

// glibc's has these names on all architectures: ld-linux.so.2, ld-linux-x86-64.so.2, ld64.so.1.
bool is_of_glibc(const std::string& loader) {
  const std::string name = loader.substr(loader.rfind('/') + 1);
  return name.starts_with("ld-linux") || name.starts_with("ld64.so") || name.starts_with("ld.so");
}

// As the kernel sees it (AT_SECURE): the linker loads nothing then that the caller may have chosen.
std::string trouble_with_rights(int fd, const std::string& binary) {
  struct stat status {};
  if (fstat(fd, &status) < 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1) return "";
  if (status.st_mode & S_ISUID && status.st_uid != geteuid()) return "it is set-user-ID";
  const bool sets_group = (status.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
  if (sets_group && status.st_gid != getegid()) return "it is set-group-ID";
  const bool has_capabilities =
      geteuid() != 0 && getxattr(binary.c_str(), "security.capability", nullptr, 0) > 0;
  return has_capabilities ? "it has file capabilities" : "";
}

}  // namespace

std::string trouble_with_loading_into(const std::string& binary) {
  const UniqueFd fd(open(binary.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  ElfW(Ehdr) header{};
  if (!fd.is_open() || !read_at(fd.get(), 0, header) ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    return "";
  if (header.e_ident[EI_CLASS] != (sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32))
    return "its words are of another size than this machine's";
  const std::string loader = loader_of(fd.get(), header);
  if (loader.empty()) return "it is statically linked";
  if (!is_of_glibc(loader)) return "it is of another libc (" + loader + ")";
  return trouble_with_rights(fd.get(), binary);
}

}  // namespace preforkd
