// What comes out of a pipe, as lines. A line that has not ended is held until it does, or its pipe; of one that is
// longer than kMostOfRawLine the rest is counted in its place. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace preforkd {

inline constexpr size_t kMostOfRawLine = 8192;

class Lines {
 public:
  // Calls on_line(std::string line) for each line that ends in these bytes, which continue those before.
  template <class OnLine>
  void add(std::string_view bytes, const OnLine& on_line) {
    for (size_t end; (end = bytes.find('\n')) != bytes.npos; bytes.remove_prefix(end + 1)) {
      hold(bytes.substr(0, end));
      on_line(take());
    }
    hold(bytes);
  }
  // What has not ended, if there is any.
  template <class OnLine>
  void end(const OnLine& on_line) {
    if (!held_.empty()) on_line(take());
  }

 private:
  void hold(std::string_view more);
  std::string take();

  std::string held_;
  size_t left_out_ = 0;
};

}  // namespace preforkd
