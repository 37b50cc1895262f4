// This object as one that the dynamic linker has loaded before the program's own (LD_PRELOAD): for this process, and for
// nobody that it starts. So the variable goes as soon as it has done its work, and comes back when this process executes
// another program in its own place: `env python3 app.py`, a script whose last line is `exec ...`, a wrapper that a version
// manager puts in the way. For that the functions of the exec family are defined here.
#pragma once

namespace preforkd {

// Called once, when the object is loaded, in the process that was started as a worker, or as a template; `library`: what it was
// loaded by, the first of the variable. Until it is forked from, which is done by a process of another number, it stays
// preloaded. `hides_all`: preforkd's own variables go with it, and come back with it.
void stay_preloaded(const char* library, bool hides_all);

}  // namespace preforkd
