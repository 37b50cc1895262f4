// A worker's own signals (worker/signals.h), in a program that knows nothing of them. Before the point it installs what it likes. At the
// point the worker's handlers take the place of that; some programs install theirs anew, later (PHP does at each request): with them
// the death of the supervisor would end a worker that serves, and an order to end, or a nudge, would be lost.
//
// So what the program asks for, for one of them, is kept from then on, is told when it asks what there is, and is not installed. A
// child of the program is not the worker: there all is libc's. Calls at the same time, by two threads for one signal, leave what
// either has asked for, or a mix of both, which is told and never called.
#pragma once

namespace preforkd {

// At the point: before the worker's own are installed, and after that.
void note_programs_signals();
void keep_signals();

}  // namespace preforkd
