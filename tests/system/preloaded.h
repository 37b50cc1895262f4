// The same tests of programs that accept by themselves, once more: forked from a template (`preload = true`).
#pragma once

#include <string>

#include "tests/system/conditions.h"

namespace preforkd::system_test {

inline bool are_preloaded = false;  // the pools of the test that runs now

// For PoolText::more.
inline std::string preload_if_wanted() { return are_preloaded ? "preload = true;" : ""; }

// With libpreforkd preloaded, for itself.
template <class Test>
void loaded(Test test) {
  if (are_sanitized()) return skip("a library with sanitizers cannot be preloaded");
  test();
}

template <class Test>
void preloaded(Test test) {
  struct Scope {
    Scope() { are_preloaded = true; }
    ~Scope() { are_preloaded = false; }
  } const scope;
  loaded(test);
}

}  // namespace preforkd::system_test
