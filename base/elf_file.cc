#include "base/elf_file.h"

#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace preforkd {

bool read_exactly(int fd, void* into, uint64_t size, uint64_t offset) {
  auto* at = static_cast<char*>(into);
  while (size > 0) {
    const ssize_t n = pread(fd, at, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<uint64_t>(n);
  }
  return true;
}

// (One of another class or byte order would not run here.)
std::optional<uint64_t> mapped_part(int fd) {
  Elf64_Ehdr header{};
  if (!read_exactly(fd, &header, sizeof header, 0) ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_phentsize != sizeof(Elf64_Phdr))
    return std::nullopt;
  std::vector<Elf64_Phdr> parts(header.e_phnum);
  if (!read_exactly(fd, parts.data(), parts.size() * sizeof(Elf64_Phdr), header.e_phoff))
    return std::nullopt;
  uint64_t end = header.e_phoff + parts.size() * sizeof(Elf64_Phdr);
  for (const Elf64_Phdr& part : parts)
    if (part.p_type == PT_LOAD) end = std::max(end, part.p_offset + part.p_filesz);
  return end;
}

}  // namespace preforkd
