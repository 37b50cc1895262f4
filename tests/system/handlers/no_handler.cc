// A shared object, but no handler.
extern "C" __attribute__((visibility("default"))) int no_handler() { return 1; }
