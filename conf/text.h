// Values as libconfig writes them: what the printed configuration is made of, and what messages
// quote.
#pragma once

#include <string>
#include <string_view>

#include "base/clock.h"

namespace preforkd {

// In double quotes, with control characters escaped: one line, and safe on a terminal.
std::string quote(std::string_view text);

// The shortest text that reads back as exactly this number, and as a float.
std::string float_text(double value);

// An integer, with the L that libconfig wants when it does not fit 32 bits.
std::string integer_text(long long value);

// Seconds; exact for a time made by time_from_seconds().
std::string seconds_text(Nanoseconds time);

// Rounded to microseconds, of which ten years fit a double exactly, so that what is printed reads
// back as the same time. What is above 0 stays above 0: for many times 0 means none.
Nanoseconds time_from_seconds(double seconds);

}  // namespace preforkd
