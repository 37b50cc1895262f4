#include "template/sibling.h"

#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <vector>

#include "base/system_call.h"

extern "C" __attribute__((visibility("default"))) int __register_atfork(void (*prepare)(),
                                                                        void (*in_parent)(),
                                                                        void (*in_child)(),
                                                                        void* object);

namespace preforkd {
namespace {

using Handler = void (*)();

struct ForkHandlers {
  Handler prepare, in_parent, in_child;
  void* object;  // that they are of
};

// In the order of their registration. Never destroyed: more may be registered while the process ends.
std::vector<ForkHandlers>& recorded() {
  static auto* const handlers = new std::vector<ForkHandlers>;
  return *handlers;
}

void* object_of(const ForkHandlers& handlers) {
  Dl_info info{};
  for (Handler each : {handlers.prepare, handlers.in_parent, handlers.in_child})
    if (each && dladdr(reinterpret_cast<void*>(each), &info)) return info.dli_fbase;
  return nullptr;
}

bool is_unloaded(const ForkHandlers& handlers) { return object_of(handlers) != handlers.object; }

// A word in glibc's description of the thread: there is one that has its id.
int* find_thread_id() {
  constexpr size_t kWords = 512;  // of struct pthread, which has more (glibc 2.31 to 2.40)
  auto* const words = reinterpret_cast<int*>(pthread_self());
  int* const end = words + kWords;
  int* const found = std::find(words, end, gettid());
  return found != end && std::find(found + 1, end, gettid()) == end ? found : nullptr;
}

int* thread_id_of_glibc() {
  int* address = nullptr;
  if (prctl(PR_GET_TID_ADDRESS, &address, 0, 0, 0) == 0 && address && *address == gettid())
    return address;
  return find_thread_id();
}

long clone_sibling(shm::Word& announced, int* thread_id) {
  constexpr long kFlags =
      CLONE_PARENT | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
#if defined(__aarch64__)
  return system_call(SYS_clone, kFlags, 0, &announced, 0, thread_id);
#else
  return system_call(SYS_clone, kFlags, 0, &announced, thread_id, 0);
#endif
}

}  // namespace

SiblingFork::SiblingFork() : thread_id_(thread_id_of_glibc()) {
  Dl_info found{}, own{};
  dladdr(dlsym(RTLD_DEFAULT, "__register_atfork"), &found);
  dladdr(reinterpret_cast<void*>(&find_thread_id), &own);
  if (found.dli_fbase != own.dli_fbase)
    trouble_ = "libpreforkd was not loaded before it (was it started by way of another program?)";
  else if (!thread_id_)
    trouble_ = "this libc keeps its thread's id where it cannot be found";
  system_call(SYS_get_robust_list, 0, &robust_list_, &robust_size_);
}

pid_t SiblingFork::fork(shm::Word& announced, const std::function<void()>& first) const {
  std::vector<ForkHandlers>& all = recorded();
  std::erase_if(all, is_unloaded);
  for (size_t i = all.size(); i-- > 0;)
    if (all[i].prepare) all[i].prepare();
  announced.store(0);  // its page is there
  const long result = clone_sibling(announced, thread_id_);
  if (result == 0 && robust_list_) {
    robust_list_->list.next = &robust_list_->list;
    system_call(SYS_set_robust_list, robust_list_, robust_size_);
  }
  if (result == 0) first();
  for (const ForkHandlers& handlers : all)
    if (const Handler handler = result == 0 ? handlers.in_child : handlers.in_parent) handler();
  if (result >= 0) return static_cast<pid_t>(result);
  errno = static_cast<int>(-result);
  return -1;
}

}  // namespace preforkd

// What pthread_atfork() calls, in whichever object that is linked into.
extern "C" int __register_atfork(void (*prepare)(), void (*in_parent)(), void (*in_child)(),
                                 void* object) {
  using namespace preforkd;
  using Register = int (*)(Handler, Handler, Handler, void*);
  static const auto libc = reinterpret_cast<Register>(dlsym(RTLD_NEXT, "__register_atfork"));
  ForkHandlers handlers{prepare, in_parent, in_child, nullptr};
  handlers.object = object_of(handlers);
  static std::mutex one_at_a_time;  // there may be threads yet
  {
    const std::lock_guard lock(one_at_a_time);
    recorded().push_back(handlers);
  }
  return libc ? libc(prepare, in_parent, in_child, object) : ENOSYS;
}
