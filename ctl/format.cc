#include "ctl/format.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <optional>

namespace preforkd {
namespace {

struct CodePoint {
  uint32_t value;
  size_t size;  // in bytes
};

// The code point at the front of a text that is not empty; nothing if its bytes are not UTF-8
// (surrogates and overlong forms are not).
std::optional<CodePoint> decode_front(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return CodePoint{byte(0), 1};
  struct Form {
    unsigned char mask, lead;
    size_t size;
    uint32_t first;  // the lowest code point that needs this form
  };
  constexpr Form kForms[] = {
      {0xe0, 0xc0, 2, 0x80}, {0xf0, 0xe0, 3, 0x800}, {0xf8, 0xf0, 4, 0x10000}};
  for (const Form& form : kForms) {
    if ((byte(0) & form.mask) != form.lead || text.size() < form.size) continue;
    uint32_t value = byte(0) & static_cast<unsigned char>(~form.mask);
    for (size_t i = 1; i < form.size; ++i) {
      if ((byte(i) & 0xc0) != 0x80) return std::nullopt;
      value = value << 6 | (byte(i) & 0x3f);
    }
    bool surrogate = value >= 0xd800 && value <= 0xdfff;
    if (value < form.first || value > 0x10ffff || surrogate) return std::nullopt;
    return CodePoint{value, form.size};
  }
  return std::nullopt;
}

bool steers_a_terminal(uint32_t c) {
  struct Range {
    uint32_t first, last;
  };
  constexpr Range kRanges[] = {
      {0x00, 0x1f},     {0x7f, 0x9f},      // C0; DEL and C1
      {0x61c, 0x61c},   {0x200b, 0x200f},  // marks of direction, and what has no width
      {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfeff, 0xfeff},
  };
  return std::any_of(std::begin(kRanges), std::end(kRanges),
                     [c](const Range& r) { return c >= r.first && c <= r.last; });
}

std::string formatted(const char* format, auto... values) {
  char buffer[64];
  int size = std::snprintf(buffer, sizeof buffer, format, values...);
  return {buffer, std::min(static_cast<size_t>(std::max(size, 0)), sizeof buffer - 1)};
}

std::string escape(std::string_view text, std::string_view keep) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    auto c = decode_front(text);
    size_t size = c ? c->size : 1;
    if (!c)
      out += formatted("\\x%02x", static_cast<unsigned char>(text.front()));
    else if (!steers_a_terminal(c->value) || keep.find(text.front()) != keep.npos)
      out += text.substr(0, size);
    else
      out += formatted(c->value < 0x80 ? "\\x%02x" : "\\u{%x}", c->value);
    text.remove_prefix(size);
  }
  return out;
}

// At most one decimal, and none that says nothing: "80", "1.2", "400".
std::string short_number(double value) {
  std::string text = formatted(value < 99.95 ? "%.1f" : "%.0f", value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}

}  // namespace

std::string printable(std::string_view text) { return escape(text, ""); }
std::string printable_lines(std::string_view text) { return escape(text, "\n\t"); }

size_t columns_of(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) !=
           0x80;  // every byte but those that continue one
  }));
}

std::string duration(double seconds) {
  constexpr double kTooLong = 1e12;  // 30,000 years: not a length of time but a mistake
  if (!(seconds >= 0 && seconds < kTooLong)) return "-";
  if (seconds == 0) return "0 s";
  // Each unit ends where rounding would reach the next one's first value.
  if (seconds < 999.5e-6) return short_number(seconds * 1e6) + " µs";
  if (seconds < 999.5e-3) return short_number(seconds * 1e3) + " ms";
  if (seconds < 59.95) return short_number(seconds) + " s";

  struct Unit {
    long long seconds;
    char name;
  };
  constexpr Unit kUnits[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
  long long total = std::llround(seconds);
  const Unit* unit = kUnits;
  while (total < unit->seconds) ++unit;
  std::string text = std::to_string(total / unit->seconds) + unit->name;
  long long rest = total % unit->seconds / unit[1].seconds;
  return rest == 0 ? text : text + ' ' + std::to_string(rest) + unit[1].name;
}

std::string percent(double ratio) {
  if (!(ratio >= 0 && ratio < 1e6)) return "-";
  return (ratio < 0.0995 ? short_number(ratio * 100) : formatted("%.0f", ratio * 100)) + '%';
}

std::string local_time(double epoch_seconds) {
  constexpr double kYear9999 = 253'370'764'800;
  if (!(epoch_seconds > 0 && epoch_seconds < kYear9999)) return "-";
  auto whole = static_cast<time_t>(epoch_seconds);
  tm broken_down{};
  char text[32];
  if (!localtime_r(&whole, &broken_down)) return "-";
  return {text, strftime(text, sizeof text, "%F %T", &broken_down)};
}

}  // namespace preforkd
