// A program that is linked with libpreforkd brings one of its own, and after a package has replaced the files under a
// running preforkd that may be of another version than its supervisor. Then this one passes all calls on to the one
// that the supervisor has handed over (worker/serving_program.h), which knows the segment that it is to write to. Called
// by libpreforkd alone, in a worker's process.
#pragma once

#include <preforkd/serve.h>

namespace preforkd {

struct LibraryFunctions {
  decltype(&preforkd_accept) accept;
  decltype(&preforkd_done) done;
  decltype(&preforkd_note) note;
  decltype(&preforkd_extend) extend;
  decltype(&preforkd_recycle) recycle;
  decltype(&preforkd_log) log;
  decltype(&preforkd_peer) peer;
  decltype(&preforkd_local) local;
  decltype(&preforkd_pool) pool;
  decltype(&preforkd_settings) settings;
  decltype(&preforkd_error) error;
  decltype(&preforkd_after_fork) after_fork;  // null: of a version without
};

// Looked for once, by the first call. Null: this library is the right one, or there is no other that has all of these (its
// own words say then that it is of another version).
const LibraryFunctions* other_library();

}  // namespace preforkd
