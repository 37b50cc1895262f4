#include "conf/literals.h"

#include <cctype>
#include <charconv>
#include <cstdint>
#include <limits>
#include <string>

namespace preforkd {
namespace {

bool is_digit(char c, int base = 10) {
  auto byte = static_cast<unsigned char>(c);
  return base == 16 ? std::isxdigit(byte) : std::isdigit(byte);
}
bool begins_name(char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '*'; }
bool continues_name(char c) { return begins_name(c) || is_digit(c) || c == '-' || c == '_'; }

// Cuts the text as libconfig's scanner does, as far as it takes to tell numbers from everything
// else.
class Scanner {
 public:
  Scanner(std::string_view text, Problems& problems) : text_(text), problems_(problems) {}

  void run() {
    while (at_ < text_.size()) {
      char c = text_[at_];
      std::string_view rest = text_.substr(at_);
      if (c == '#' || rest.starts_with("//")) {
        advance_to(text_.find('\n', at_));
      } else if (rest.starts_with("/*")) {
        comment();
      } else if (c == '"') {
        string();
      } else if (begins_name(c)) {
        while (at_ < text_.size() && continues_name(text_[at_])) ++at_;
      } else if (is_digit(c) || c == '.' || c == '-' || c == '+') {
        number();
      } else {
        if (c == '\0') problems_.add(line_, "unexpected NUL character");
        if (rest.starts_with("@include")) problems_.add(line_, "@include is not supported");
        advance_to(at_ + 1);
      }
    }
  }

 private:
  // Moves on, counting lines; npos is the end of the text.
  void advance_to(size_t position) {
    for (; at_ < text_.size() && at_ < position; ++at_) line_ += text_[at_] == '\n';
  }

  void comment() {
    size_t end = text_.find("*/", at_ + 2);
    if (end == text_.npos) problems_.add(line_, "comment is not closed");
    advance_to(end == text_.npos ? end : end + 2);
  }

  void string() {
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != '"') {
      if (text_[end] == '\0') return nul_in_string(end);
      end += text_[end] == '\\' ? 2 : 1;
    }
    if (end >= text_.size()) problems_.add(line_, "string is not closed");
    advance_to(end + 1);
  }

  void nul_in_string(size_t position) {
    advance_to(position);
    problems_.add(line_, "unexpected NUL character");
    advance_to(text_.npos);
  }

  void number() {
    size_t begin = at_;
    if (text_[at_] == '-' || text_[at_] == '+') ++at_;
    bool hexadecimal = peek() == '0' && (peek(1) == 'x' || peek(1) == 'X');
    int base = hexadecimal ? 16 : 10;
    if (hexadecimal) at_ += 2;
    size_t digits = at_;
    while (is_digit(peek(), base)) ++at_;
    if (!hexadecimal && skip_fraction()) return;
    std::string value = (text_[begin] == '-' ? "-" : "") + std::string(text_, digits, at_ - digits);
    bool wide = peek() == 'L';
    check_integer(std::string(text_, begin, at_ - begin), value, base, wide);
    while (peek() == 'L') ++at_;
    if (at_ == begin) ++at_;
  }

  // Whether what began with digits was a float.
  bool skip_fraction() {
    size_t begin = at_;
    if (peek() == '.') {
      ++at_;
      while (is_digit(peek())) ++at_;
    }
    size_t sign = peek(1) == '-' || peek(1) == '+';
    if ((peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign))) {
      at_ += 1 + sign;
      while (is_digit(peek())) ++at_;
    }
    return at_ != begin;
  }

  void check_integer(const std::string& written, const std::string& value, int base, bool wide) {
    int64_t number = 0;
    auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), number, base);
    if (code == std::errc::result_out_of_range) {
      problems_.add(line_, written + ": expected an integer of at most 64 bits");
    } else if (!wide && (number > std::numeric_limits<int32_t>::max() ||
                         number < std::numeric_limits<int32_t>::min())) {
      problems_.add(line_,
                    written + ": an integer beyond 32 bits is written with an L: " + written + "L");
    }
  }

  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\n';
  }

  std::string_view text_;
  Problems& problems_;
  size_t at_ = 0;
  unsigned line_ = 1;
};

}  // namespace

void check_literals(std::string_view text, Problems& problems) { Scanner(text, problems).run(); }

}  // namespace preforkd
