// One of several that work off the faults side by side: takes some, runs the scenario with them, notes what came of it.
#pragma once

#include <string>

namespace preforkd::sweep {

// `folder` has the files `sites`, `todo` (faults, one a line), `next` (how many of them are taken), `done` (what came
// of each: "FAULT well", "FAULT unreached", "FAULT ill TEXT") and `together` (of runs with several that did not go well at
// first: "FIRST FAULT TEXT"). `program` is this one, which is run anew for each run.
int run_lane(const std::string& folder, const std::string& program);

}  // namespace preforkd::sweep
