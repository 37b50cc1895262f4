// As compiled for a preforkd that does not exist yet.
#include <preforkd/handler.h>

namespace {
int serve(void*, const preforkd_connection*) { return 0; }
}  // namespace

PREFORKD_HANDLER = {PREFORKD_ABI + 1, sizeof(preforkd_handler), "abi_next", nullptr, nullptr, serve,
                    nullptr};
