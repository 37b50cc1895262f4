// For clang-tidy alone, which tests/.clang-tidy makes include this first: Debian 12's clang lacks what
// libstdc++'s std::source_location is made of.
#pragma once

#if !__has_builtin(__builtin_source_location)
namespace std {
struct source_location {
  static constexpr source_location current() { return {}; }
  constexpr unsigned line() const { return 0; }
  constexpr const char* file_name() const { return ""; }
  constexpr const char* function_name() const { return ""; }
};
}  // namespace std
#endif
