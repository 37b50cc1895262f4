// worker/proxy_protocol: the headers of both versions, whole and wrong.
#include "worker/proxy_protocol.h"

#include "tests/unit/unit_test.h"

using namespace preforkd;
using namespace std::string_literals;

namespace {

std::string shown(const std::optional<ProxyHeader>& header, const std::string& error) {
  if (!header) return error;
  if (!header->source) return header->is_local ? "the proxy's" : "its own";
  return to_string(*header->source) + " to " + to_string(*header->destination);
}
std::string line(const std::string& text) {
  std::string error;
  const auto header = parse_proxy_line(text, error);
  return shown(header, error);
}
std::string block(const std::string& bytes) {
  std::string error;
  const auto header = parse_proxy_block(bytes, error);
  return shown(header, error);
}
// Version and command, family, what follows.
std::string of_version_2(char command, char family, const std::string& rest) {
  const auto size = static_cast<uint16_t>(rest.size());
  return std::string(kProxySignature) + command + family + static_cast<char>(size >> 8) +
         static_cast<char>(size & 0xff) + rest;
}

void lines() {
  static const struct {
    const char *text, *shown;
  } kRows[] = {
      {"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", "192.0.2.1:56324 to 198.51.100.2:443"},
      {"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", "[2001:db8::1]:1 to [::1]:65535"},
      {"PROXY UNKNOWN\r\n", "its own"},
      {"PROXY UNKNOWN ffff:f...f 65535 whatever\r\n", "its own"},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n", "no end of line within 107 bytes"},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n", "expected two ports"},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 5\r\n", "expected two ports"},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n", "expected two ports"},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n", "expected two ports"},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 01 443\r\n", "expected two ports"},
      {"PROXY TCP4 192.0.2.1  198.51.100.2 1 443\r\n", "expected two ports"},
      {"PROXY TCP4 192.0.2.256 198.51.100.2 1 443\r\n", "expected two addresses"},
      {"PROXY TCP4 ::1 ::1 1 443\r\n", "expected two addresses"},
      {"PROXY TCP6 192.0.2.1 198.51.100.2 1 443\r\n", "expected two addresses"},
      {"PROXY UDP4 192.0.2.1 198.51.100.2 1 443\r\n", "expected TCP4, TCP6 or UNKNOWN"},
      {"PROXY UNKNOWNS\r\n", "expected TCP4, TCP6 or UNKNOWN"},
      {"PROXY TCP4 192.0.2.01 198.51.100.2 1 443\r\n", "expected two addresses"},
      {"PROXY TCP4 192.0.2 198.51.100.2 1 443\r\n", "expected two addresses"},
      {"PROXY TCP4 0xc0.0.2.1 198.51.100.2 1 443\r\n", "expected two addresses"},
      {"PROXY TCP4 192.0.2.1\t 198.51.100.2 1 443\r\n", "expected two addresses"},
      {"PROXY TCP4 192.0.2.1\r 198.51.100.2 1 443\r\n", "expected two addresses"},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 1 443\r\r\n", "expected two ports"},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n", "expected two ports"},
      {"PROXY TCP4 192.0.2.1 198.51.100.2 1 443 \r\n", "expected two ports"},
      {"PROXY TCP4\t192.0.2.1 198.51.100.2 1 443\r\n", "expected TCP4, TCP6 or UNKNOWN"},
      {"PROXY TCP6 ::1%lo ::1 1 443\r\n", "expected two addresses"},
      {"PROXY TCP6 00001::1 ::1 1 443\r\n", "expected two addresses"},
      {"PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 443\r\n", "expected two addresses"},
      {"PROXY \r\n", "expected TCP4, TCP6 or UNKNOWN"},
      {"PROXY\r\n", "it does not begin with one"},
      {"proxy UNKNOWN\r\n", "it does not begin with one"},
      {"", "it does not begin with one"},
  };
  for (const auto& row : kRows) CU_ASSERT(unit::same_text(line(row.text), row.shown));
  CU_ASSERT(unit::same_text(line("PROXY UNKNOWN " + std::string(91, 'x') + "\r\n"), "its own"));
  CU_ASSERT(unit::same_text(line("PROXY UNKNOWN " + std::string(92, 'x') + "\r\n"),
                            "no end of line within 107 bytes"));
}

// None of the system's functions reads past a NUL.
void lines_with_a_nul() {
  const std::string good = "PROXY TCP4 192.0.2.1 198.51.100.2 4242 443\r\n";
  CU_ASSERT(unit::same_text(line(good), "192.0.2.1:4242 to 198.51.100.2:443"));
  for (size_t at = 0; at <= good.size(); ++at) {
    std::string bad = good;
    bad.insert(at, 1, '\0');
    std::string error;
    if (parse_proxy_line(bad, error)) std::printf("\n  taken with a NUL at %zu\n", at);
    CU_ASSERT_FALSE(parse_proxy_line(bad, error).has_value());
  }
  CU_ASSERT(unit::same_text(line("PROXY TCP4 192.0.2.1\0.9 198.51.100.2 4242 443\r\n"s),
                            "expected two addresses"));
  CU_ASSERT(
      unit::same_text(line("PROXY TCP6 ::1\0:9 ::1 4242 443\r\n"s), "expected two addresses"));
}

const std::string kTcp4 = "\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb"s;

void blocks() {
  const std::string v6 =
      std::string(15, '\0') + "\x01" + std::string(15, '\0') + "\x02" + "\x00\x50\x01\xbb"s;
  CU_ASSERT(unit::same_text(block(of_version_2('\x21', '\x11', kTcp4)),
                            "192.0.2.1:56324 to 198.51.100.2:443"));
  CU_ASSERT(unit::same_text(block(of_version_2('\x21', '\x21', v6)), "[::1]:80 to [::2]:443"));
  // With extensions behind the addresses; as LOCAL, UNSPEC, UDP, a Unix socket.
  CU_ASSERT(unit::same_text(block(of_version_2('\x21', '\x11', kTcp4 + "\x20\x00\x05hallo"s)),
                            "192.0.2.1:56324 to 198.51.100.2:443"));
  // (What an extension says is nobody's business here, not even how long it is.)
  CU_ASSERT(unit::same_text(block(of_version_2('\x21', '\x11', kTcp4 + "\x20\xff\xff"s)),
                            "192.0.2.1:56324 to 198.51.100.2:443"));
  CU_ASSERT(unit::same_text(block(of_version_2('\x20', '\x11', kTcp4)), "the proxy's"));
  CU_ASSERT(unit::same_text(block(of_version_2('\x20', '\x00', "")), "the proxy's"));
  CU_ASSERT(unit::same_text(block(of_version_2('\x20', '\xff', "x")), "the proxy's"));
  CU_ASSERT(unit::same_text(block(of_version_2('\x21', '\x00', "")), "its own"));
  CU_ASSERT(unit::same_text(block(of_version_2('\x21', '\x12', kTcp4)), "its own"));
  CU_ASSERT(unit::same_text(block(of_version_2('\x21', '\x31', std::string(216, 'x'))), "its own"));
}

void wrong_blocks() {
  CU_ASSERT(unit::same_text(block(of_version_2('\x21', '\x11', kTcp4.substr(1))),
                            "too short for its addresses"));
  CU_ASSERT(
      unit::same_text(block(of_version_2('\x21', '\x21', kTcp4)), "too short for its addresses"));
  CU_ASSERT(unit::same_text(block(of_version_2('\x22', '\x11', kTcp4)), "expected LOCAL or PROXY"));
  CU_ASSERT(unit::same_text(block(of_version_2('\x11', '\x11', kTcp4)), "expected version 1 or 2"));
  for (char family : {'\x41', '\x13', '\x0f', '\xf0'})
    CU_ASSERT(
        unit::same_text(block(of_version_2('\x21', family, kTcp4)), "of no known address family"));
  CU_ASSERT(
      unit::same_text(block(of_version_2('\x21', '\x11', kTcp4) + "x"), "not as long as it says"));
  std::string error;
  CU_ASSERT_FALSE(
      proxy_block_size(of_version_2('\x21', '\x11', std::string(16369, 'x')), error).has_value());
  CU_ASSERT(unit::same_text(error, "longer than 16 KiB"));
  CU_ASSERT_EQUAL(*proxy_block_size(of_version_2('\x21', '\x11', std::string(16368, 'x')), error),
                  16384);
  CU_ASSERT_FALSE(proxy_block_size(kProxySignature, error).has_value());
}

}  // namespace

void add_proxy_protocol_tests() {
  static const unit::Test kTests[] = {{"lines", lines},
                                      {"lines with a NUL", lines_with_a_nul},
                                      {"blocks", blocks},
                                      {"wrong blocks", wrong_blocks}};
  unit::add_suite("proxy_protocol", kTests);
}
