#include "template/interpreter.h"

#include <dlfcn.h>
#include <pthread.h>

namespace preforkd {
namespace {

template <class Function>
bool look_up(const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  return function != nullptr;
}

// The interpreter is an argument of each call where Perl was built with threads (Debian's is), and nowhere else.
void run_in_perl(const char* text) {
  void* (*eval)(void* perl, const char* text, int dies) = nullptr;
  void* (*eval_without)(const char* text, int dies) = nullptr;
  if (!look_up("Perl_eval_pv", eval) || !look_up("Perl_eval_pv", eval_without)) return;
  const auto* key = static_cast<const pthread_key_t*>(dlsym(RTLD_DEFAULT, "PL_thr_key"));
  void* const perl = key ? pthread_getspecific(*key) : nullptr;
  if (perl)
    eval(perl, text, 0);
  else if (!key)
    eval_without(text, 0);
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
  run_in_perl("srand");
  if (!is_python_) return;
  python_.after_fork_in_child();
  python_.let_go(python_.held);
}

}  // namespace preforkd
