// A handler whose loading never ends.
#include <preforkd/handler.h>
#include <unistd.h>

namespace {

[[gnu::constructor]] void hang() {
  for (;;) pause();
}

}  // namespace
