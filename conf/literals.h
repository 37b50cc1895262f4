// What libconfig 1.5 gets wrong without a word, found in the text before libconfig sees it:
//  - a decimal or hexadecimal number beyond 32 bits without an L, or beyond 64 with one, becomes
//    another number;
//  - a string or a comment that is not closed at the end of the file may be taken as closed;
//  - what follows a NUL is not read;
//  - "@include" of a folder ends the process that reads it. Files of ours include nothing.
#pragma once

#include <string_view>

#include "conf/problems.h"

namespace preforkd {

void check_literals(std::string_view text, Problems& problems);

}  // namespace preforkd
