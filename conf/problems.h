// What is wrong with a configuration, gathered while it is read, told in the order of its lines.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace preforkd {

class Problems {
 public:
  void add(unsigned line, std::string text) { list_.push_back({line, std::move(text)}); }
  bool empty() const { return list_.empty(); }

  // As "FILE:LINE: text"; those of one line stay in the order in which they were found.
  void tell(const std::string& file, std::vector<std::string>& out) {
    std::stable_sort(list_.begin(), list_.end(),
                     [](const Problem& a, const Problem& b) { return a.line < b.line; });
    for (const Problem& p : list_)
      out.push_back(file + ":" + std::to_string(p.line) + ": " + p.text);
  }

 private:
  struct Problem {
    unsigned line;
    std::string text;
  };
  std::vector<Problem> list_;
};

}  // namespace preforkd
