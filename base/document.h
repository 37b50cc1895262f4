// A text that a program hands to the next one as an open file: settings for a supervisor, state over an upgrade.
#pragma once

#include <string>

#include "base/fd.h"

namespace preforkd {

// A memfd with this text, closed on exec unless the launch passes it on. Throws SysError.
UniqueFd make_document(const std::string& text);
// All of it, wherever its file offset stands. Throws SysError.
std::string read_document(int fd);

}  // namespace preforkd
