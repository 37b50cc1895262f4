#include "base/edit_distance.h"

#include <algorithm>
#include <vector>

namespace preforkd {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> edits(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      size_t& best = edits[i][j] = i + j;
      if (i && j) {
        best = std::min({edits[i - 1][j] + 1, edits[i][j - 1] + 1,
                         edits[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      }
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        best = std::min(best, edits[i - 2][j - 2] + 1);
    }
  }
  return edits[a.size()][b.size()];
}

}  // namespace preforkd
