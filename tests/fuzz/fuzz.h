// What the fuzzers share. Each file beside this one is a program: libFuzzer calls its function with inputs
// that it grows from tests/fuzz/corpus/NAME, looking for one that crashes, leaks, takes seconds, or breaks
// what must() says. 'make fuzz' runs them all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace preforkd::fuzz {

// What holds whatever the input is. (Not assert(): it has to say what was broken, and in every build.)
inline void must(bool holds, std::string_view what, std::string_view detail = "") {
  if (holds) return;
  std::fprintf(stderr, "broken: %.*s: %.*s\n", static_cast<int>(what.size()), what.data(),
               static_cast<int>(detail.size()), detail.data());
  std::abort();
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Cuts off what stands before the first `end`, or all.
inline std::string_view cut(std::string_view& rest, char end = '\n') {
  size_t at = rest.find(end);
  std::string_view front = rest.substr(0, at);
  rest.remove_prefix(at == rest.npos ? rest.size() : at + 1);
  return front;
}

}  // namespace preforkd::fuzz
