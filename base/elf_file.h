// How much of a program, or of a library, there must be: who executes or maps one that is cut short (a copy that is still
// being made) dies of SIGBUS, maybe much later. Used by whoever is about to, and can say so instead.
#pragma once

#include <cstdint>
#include <optional>

namespace preforkd {

inline constexpr char kCutShort[] = "cut short";

// The end of the last part of an ELF file of this machine that is mapped; what follows is for debuggers. Nothing: it is
// none, or cut short before that (errno 0), or cannot be read (errno).
std::optional<uint64_t> mapped_part(int fd);

}  // namespace preforkd
