// The suites, each in the file of its name. A new one is declared here and listed below.
#pragma once

#include <vector>

#include "tests/system/check.h"

namespace preforkd::system_test {

Suite serve_suite();

inline std::vector<Suite> all_suites() { return {serve_suite()}; }

}  // namespace preforkd::system_test
