// trust: a program that attacks, on order (tests/system/attacks.h). With arguments, each is an order; without, each
// line of standard input is one.
#include <cstdio>

#include "tests/system/attacks_obey.h"

int main(int argc, char** argv) {
  using namespace preforkd::system_test;
  for (int i = 1; i < argc; ++i) std::printf("%s\n", attack::obey(argv[i]).c_str());
  if (argc == 1) attack::obey_lines(0, 1, attack::obey);
  return 0;
}
