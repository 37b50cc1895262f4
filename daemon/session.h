// The processes that a supervisor left behind. Each supervisor leads a session; when it dies, its workers
// and their programs are adopted by the daemon (a child subreaper) and are still told by that session. The
// number cannot mean another session meanwhile: the kernel does not use a pid again that is still a session's.
//
// Only our own children are looked at: the ones that are adopted, which are all that can be signalled
// without meeting a stranger, because nobody but us reaps them.
#pragma once

#include <sys/types.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"

namespace preforkd {

// What /proc/PID/status says of a process. Nothing: it has no such lines. A process may have any name, and says it
// first: only what stands at the beginning of a line is taken, and of several such lines the last.
struct ProcessStatus {
  pid_t parent = 0;
  std::array<uid_t, 3> uids{};  // real, effective, saved
};
std::optional<ProcessStatus> parse_process_status(const std::string& text);

// Whether a child of ours runs as this user, by one of its uids: a setuid program has its caller's as the real one.
// One that hides from us (/proc may have hidepid) is taken for it. Nothing: it cannot be known just now (no descriptor).
std::optional<bool> is_of_user(pid_t child, uid_t uid);

// Our children now, from /proc/self/task/TID/children (or, where the kernel lacks it, all of /proc).
// Nothing: it cannot be known just now (no descriptor to be had), which is not the same as none.
std::optional<std::vector<pid_t>> own_children();

std::optional<std::vector<pid_t>> children_in_session(pid_t session);

// Signals these children of ours, whatever can be found out about them, and what descends from them: first a parent,
// then its children, which are known by having it, or us, for their parent when their pidfd is open already. After
// `until` no more descendants are looked for. (Those, and all where the kernel does not tell whose children they are,
// CONFIG_PROC_CHILDREN, have their turn when they are ours.)
// The list is a fresh one: none of them was reaped since it was made.
void signal_trees(const std::vector<pid_t>& roots, int number, Nanoseconds until);

// Signals each of them. A process that is no child of ours yet (its parent lives) is met by a later call.
void signal_session(pid_t session, int number);

}  // namespace preforkd
