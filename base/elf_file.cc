#include "base/elf_file.h"

#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/read_exactly.h"

namespace preforkd {

// (One of another class or byte order would not run here.)
std::optional<uint64_t> mapped_part(int fd) {
  Elf64_Ehdr header{};
  if (!read_exactly(fd, &header, sizeof header, 0)) return std::nullopt;
  errno = 0;
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_phentsize != sizeof(Elf64_Phdr))
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
