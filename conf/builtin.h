// The configuration that preforkd runs on when there is no file: the text of conf/preforkd.conf.
#pragma once

#include <string_view>

namespace preforkd {

inline constexpr std::string_view kBuiltinName =
    "built-in default";  // stands for the file in messages

std::string_view builtin_conf_text();

}  // namespace preforkd
