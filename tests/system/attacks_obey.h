// All orders of attacks.h, attacks_left.h and attacks_hunt.h.
#pragma once

#include <sstream>

#include "tests/system/attacks.h"
#include "tests/system/attacks_hunt.h"
#include "tests/system/attacks_left.h"

namespace preforkd::system_test::attack {

inline std::string obey(const std::string& line) {
  std::istringstream words(line);
  std::string order, text, how;
  uint64_t number = 0;
  words >> order;
  if (order == "pid") return std::to_string(getpid());
  if (order == "reach") return try_all(words, methods_to_reach());
  if (order == "disturb") return try_all(words, methods_to_disturb());
  if (order == "variable") {
    words >> text;
    const char* value = std::getenv(text.c_str());
    return value ? value : "";
  }
  if (order == "rights") return send_rights();
  if (order == "keep") return std::to_string(keep_descriptors());
  if (order == "fill") return words >> text, fill(text);
  if (order == "spoil") return spoil();
  if (order == "notify") return words >> text, tell("/run/systemd/notify", text, true);
  if (order == "journal") return words >> text, tell("/run/systemd/journal/socket", text, false);
  if (order == "say") return words >> number, say(number);
  if (order == "leave") return words >> text >> how, leave(text, how, obey);
  if (order == "hunt") return words >> how >> number, hunt(how, number);
  if (order == "kill") {
    pid_t pid = 0;
    int signal_number = 0;
    words >> pid >> signal_number;
    return std::to_string(kill(pid, signal_number) == 0 ? 0 : errno);
  }
  return "no such order";
}

// "keep; rights": the last one's answer.
inline std::string obey_each(const std::string& orders) {
  std::istringstream all(orders);
  std::string answer;
  for (std::string one; std::getline(all, one, ';');) answer = obey(one);
  return answer;
}

}  // namespace preforkd::system_test::attack
