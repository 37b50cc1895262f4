#include "log/lines.h"

#include <algorithm>
#include <utility>

namespace preforkd {

void Lines::hold(std::string_view more) {
  const size_t room = std::min(more.size(), kMostOfRawLine - held_.size());
  held_.append(more.substr(0, room));
  left_out_ += more.size() - room;
}

std::string Lines::take() {
  if (left_out_ > 0)
    held_ += "... (" + std::to_string(std::exchange(left_out_, 0)) + " bytes more)";
  return std::exchange(held_, {});
}

}  // namespace preforkd
