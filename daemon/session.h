// The processes that a supervisor left behind. Each supervisor leads a session; when it dies, its workers
// and their programs are adopted by the daemon (a child subreaper) and are still told by that session. The
// number cannot mean another session meanwhile: the kernel does not use a pid again that is still a session's.
//
// Only our own children are looked at: the ones that are adopted, which are all that can be signalled
// without meeting a stranger, because nobody but us reaps them.
#pragma once

#include <sys/types.h>

#include <optional>
#include <vector>

namespace preforkd {

// Our children now, from /proc/self/task/TID/children (or, where the kernel lacks it, all of /proc).
// Nothing: it cannot be known just now (no descriptor to be had), which is not the same as none.
std::optional<std::vector<pid_t>> own_children();

std::optional<std::vector<pid_t>> children_in_session(pid_t session);

// Signals each of them. A process that is no child of ours yet (its parent lives) is met by a later call.
void signal_session(pid_t session, int number);

}  // namespace preforkd
