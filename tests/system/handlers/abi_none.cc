// Of no version of the interface: 0 is what a descriptor has that nobody filled in.
#include <preforkd/handler.h>

PREFORKD_HANDLER = {0, sizeof(preforkd_handler), "abi_none", nullptr, nullptr, nullptr, nullptr};
