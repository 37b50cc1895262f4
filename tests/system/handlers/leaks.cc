// No handler: preloaded (LD_PRELOAD), it makes any program lose memory before main().
#include <cstdlib>

namespace {

[[gnu::constructor]] void lose() {
  [[maybe_unused]] void* volatile lost = std::malloc(4321);
  lost = nullptr;
}

}  // namespace
