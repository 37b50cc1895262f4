// What exec takes: pointers to strings that somebody else keeps, and a null pointer behind them.
#pragma once

#include <string>
#include <vector>

namespace preforkd {

inline std::vector<char*> pointers_to(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const auto& string : strings) pointers.push_back(const_cast<char*>(string.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace preforkd
