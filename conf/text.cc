#include "conf/text.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

namespace preforkd {

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.append({'\\', c});
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      char hex[5];
      std::snprintf(hex, sizeof hex, "\\x%02x", byte);
      out += hex;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string float_text(double value) {
  char digits[32];
  std::string out(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
  return out.find_first_of(".en") == out.npos ? out + ".0" : out;
}

std::string integer_text(long long value) {
  using Small = std::numeric_limits<int>;
  bool small = value >= Small::min() && value <= Small::max();
  return std::to_string(value) + (small ? "" : "L");
}

std::string seconds_text(Nanoseconds time) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%llu.%09llu",
                static_cast<unsigned long long>(time / kSecond),
                static_cast<unsigned long long>(time % kSecond));
  std::string out = digits;
  out.erase(out.find_last_not_of('0') + 1);
  return out.back() == '.' ? out + '0' : out;
}

Nanoseconds time_from_seconds(double seconds) {
  if (!(seconds > 0)) return 0;
  auto microseconds = static_cast<Nanoseconds>(std::llround(seconds * 1e6));
  return (microseconds ? microseconds : 1) * kMicrosecond;
}

}  // namespace preforkd
