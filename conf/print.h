// Settings as the text of a configuration, every key with the value in force: what -T shows. Loaded
// again, it gives the same settings.
#pragma once

#include <string>

#include "conf/settings.h"

namespace preforkd {

// A pool's `settings` must be as the loader makes them: a JSON object without null, whose keys are
// names that libconfig knows.
std::string print_settings(const Settings& settings);

}  // namespace preforkd
