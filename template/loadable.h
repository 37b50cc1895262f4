// Whether the dynamic linker would load an object into a program by $LD_PRELOAD: asked before the program is executed, since
// afterwards there is nobody in it who could say that it has not been.
#pragma once

#include <string>

namespace preforkd {

// As the calling user, of a binary. "", or why not; of anything else, "".
std::string trouble_with_loading_into(const std::string& binary);

}  // namespace preforkd
