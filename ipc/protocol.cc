#include "ipc/protocol.h"

#include <link.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace preforkd {
namespace {

constexpr std::string_view kOption = "--protocol=";

[[noreturn]] void refuse(const std::string& reason, int status) {
  const std::string line = "error: " + reason + "\n";
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, line.data(), line.size());
  _exit(status);
}

std::string numbers(uint32_t protocol, uint32_t layout) {
  return "protocol " + std::to_string(protocol) +
         (layout == kNoLayout ? "" : ", layout " + std::to_string(layout));
}

}  // namespace

std::string protocol_option(uint32_t layout) {
  return std::string(kOption) + std::to_string(kProtocol) + "." + std::to_string(layout);
}

bool is_protocol_option(std::string_view argument) { return argument.starts_with(kOption); }

void expect_protocol(int argc, char** argv, uint32_t layout) {
  if (argc < 2 || !is_protocol_option(argv[1])) return;
  unsigned protocol = 0, asked_layout = 0;
  const bool is_read =
      std::sscanf(argv[1] + kOption.size(), "%u.%u", &protocol, &asked_layout) == 2;
  if (layout == kNoLayout) asked_layout = kNoLayout;
  if (!is_read || protocol != kProtocol || asked_layout != layout)
    refuse("this program is of another version than the daemon: it speaks " +
               numbers(kProtocol, layout) + ", and is to speak " + numbers(protocol, asked_layout),
           kSpeaksAnother);
  if (argc < 3 || std::strcmp(argv[2], kSpeaksOption) != 0) return;
  const std::string trouble = trouble_with_own_file();
  if (!trouble.empty()) refuse(trouble, static_cast<int>(ExitCode::kSystem));
  std::puts(argv[1]);
  std::exit(0);
}

// From the program headers, which are in memory: the file itself may be one that we may not read.
std::string trouble_with_own_file() {
  const auto* header = reinterpret_cast<const ElfW(Phdr)*>(getauxval(AT_PHDR));
  uint64_t needed = 0;
  for (unsigned long n = getauxval(AT_PHNUM); header && n > 0; --n, ++header)
    if (header->p_type == PT_LOAD) needed = std::max(needed, header->p_offset + header->p_filesz);
  struct stat file {};
  if (stat("/proc/self/exe", &file) < 0 || static_cast<uint64_t>(file.st_size) >= needed) return "";
  return "its file is cut short: " + std::to_string(file.st_size) + " bytes of " +
         std::to_string(needed) + " at least";
}

}  // namespace preforkd
