#include "conf/builtin.h"

// Taken in by the assembler, whose paths are those of the compiler: relative to the repository. The
// object depends on the text, which only the Makefile can know.
asm(R"(
  .pushsection .rodata
  .hidden preforkd_builtin_conf_begin
  .hidden preforkd_builtin_conf_end
  .global preforkd_builtin_conf_begin
  .global preforkd_builtin_conf_end
preforkd_builtin_conf_begin:
  .incbin "conf/preforkd.conf"
preforkd_builtin_conf_end:
  .popsection
)");

extern "C" const char preforkd_builtin_conf_begin[], preforkd_builtin_conf_end[];

namespace preforkd {

std::string_view builtin_conf_text() {
  return {preforkd_builtin_conf_begin, preforkd_builtin_conf_end};
}

}  // namespace preforkd
