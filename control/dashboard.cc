#include "control/dashboard.h"

#include <sys/random.h>

#include <cerrno>
#include <string_view>

#include "base/error.h"

// The assembler finds the file from the root of the repository, where the compiler runs.
asm(R"(
  .pushsection .rodata
  .globl preforkd_dashboard_begin, preforkd_dashboard_end
  .hidden preforkd_dashboard_begin, preforkd_dashboard_end
preforkd_dashboard_begin:
  .incbin "control/dashboard.html"
preforkd_dashboard_end:
  .popsection
)");
extern "C" const char preforkd_dashboard_begin[], preforkd_dashboard_end[];

namespace preforkd {
namespace {

constexpr std::string_view kPlaceholder = "NONCE";

std::string make_nonce() {
  unsigned char bytes[16];
  if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) throw SysError("getrandom", errno);
  std::string text;
  for (unsigned char b : bytes) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  return text;
}

}  // namespace

Dashboard make_dashboard() {
  std::string nonce = make_nonce();
  Dashboard page;
  page.html.assign(preforkd_dashboard_begin, preforkd_dashboard_end);
  for (size_t at = 0; (at = page.html.find(kPlaceholder, at)) != std::string::npos;)
    page.html.replace(at, kPlaceholder.size(), nonce);
  page.policy = "default-src 'none'; script-src 'nonce-" + nonce + "'; style-src 'nonce-" + nonce +
                "'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'";
  return page;
}

}  // namespace preforkd
