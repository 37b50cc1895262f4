#include "base/process_title.h"

#include <unistd.h>

#include <cstring>

namespace preforkd {
void reserve_process_title(int argc, char** argv) {
  // argv's strings and the environment's lie one behind the other (execve(2) lays them out so).
  char* end = argv[0];
  for (int i = 0; i < argc; ++i)
    if (argv[i] == end) end += std::strlen(argv[i]) + 1;
  size_t count = 0;
  for (; environ[count]; ++count)
    if (environ[count] == end) end += std::strlen(environ[count]) + 1;
  // Lives as long as the process: environ points to it.
  auto* moved = new char*[count + 1];
  for (size_t i = 0; i < count; ++i) moved[i] = strdup(environ[i]);
  moved[count] = nullptr;
  environ = moved;
  const auto size = static_cast<size_t>(end - argv[0]);
  title_room = {argv[0], size, size};
}

}  // namespace preforkd
