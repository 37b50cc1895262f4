#include "template/interpreter.h"

#include <dlfcn.h>
#include <pthread.h>

#include <cstdint>
#include <cstdlib>

#include "template/threads.h"

namespace preforkd {
namespace {

template <class Function>
bool look_up(const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  return function != nullptr;
}

// The interpreter is an argument of each call where Perl was built with threads (Debian's is), and nowhere else.
template <class... Arguments>
void call_perl(const char* name, Arguments... arguments) {
  void (*call)(void* perl, Arguments...) = nullptr;
  void (*call_without)(Arguments...) = nullptr;
  if (!look_up(name, call) || !look_up(name, call_without)) return;
  const auto* key = static_cast<const pthread_key_t*>(dlsym(RTLD_DEFAULT, "PL_thr_key"));
  void* const perl = key ? pthread_getspecific(*key) : nullptr;
  if (perl)
    call(perl, arguments...);
  else if (!key)
    call_without(arguments...);
}

}  // namespace

Interpreter::Interpreter() {
  int (*is_initialized)() = nullptr;
  is_python_ = look_up("Py_IsInitialized", is_initialized) && is_initialized() &&
               look_up("PyGILState_Ensure", python_.hold) &&
               look_up("PyGILState_Release", python_.let_go) &&
               look_up("PyOS_BeforeFork", python_.before_fork) &&
               look_up("PyOS_AfterFork_Parent", python_.after_fork_in_parent) &&
               look_up("PyOS_AfterFork_Child", python_.after_fork_in_child) &&
               look_up("PyRun_SimpleStringFlags", python_.run);
}

void Interpreter::settle() const {
  if (!is_python_) return;
  const int held = python_.hold();
  python_.run("__import__('gc').collect(); __import__('gc').freeze()", nullptr);
  python_.let_go(held);
}

void Interpreter::before_fork() {
  if (!is_python_) return;
  python_.held = python_.hold();
  python_.before_fork();
}

void Interpreter::after_fork_in_parent() {
  if (!is_python_) return;
  python_.after_fork_in_parent();
  python_.let_go(python_.held);
}

void Interpreter::after_fork_in_child() {
  call_perl("Perl_eval_pv", "srand", 0);
  if (!is_python_) return;
  python_.after_fork_in_child();
  python_.let_go(python_.held);
}

// (Neither returns: Perl unwinds to where it was started, and ends there.)
void Interpreter::exit() {
  Interpreter here;
  void (*exit_python)(int) = nullptr;
  if (here.is_python_ && threads() == 1 && look_up("Py_Exit", exit_python)) {
    here.python_.hold();
    exit_python(0);
  }
  call_perl("Perl_my_exit", uint32_t{0});
  std::exit(0);
}

}  // namespace preforkd
